//! Files that users give, of whatever kind: regular, standard input (`-`), or a pipe, which can be read once. Owns what
//! the first bytes say of a file, and temporary copies of what has to be read in any order. A copy has no name: nothing
//! is left of it when the process ends, however it ends.

use std::fs::File;
use std::io::{self, BufWriter, Cursor, Read, Write};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use crate::target::parent;
use rudder_dataset::DatasetError;

/// First bytes that are looked at.
const HEAD_BYTES: usize = 8;

/// Bytes that are copied at once.
const PIECE_BYTES: usize = 1 << 20;

/// What a file is by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Npy,
    Gzip,
    /// `.npz`, and what `torch.save` writes.
    Zip,
    /// Packed in a way that is not read here; the name of the program that unpacks it.
    Packed(&'static str),
    Other,
}

/// An open file and its first bytes.
pub(super) struct Input {
    path: PathBuf,
    file: File,
    head: Vec<u8>,
    is_regular: bool,
    bytes: u64,
}

impl Input {
    /// Opens `path`; `-` is standard input.
    pub(super) fn open(path: &Path) -> Result<Self, DatasetError> {
        let (path, file) = if path == Path::new("-") {
            let name = PathBuf::from("standard input");
            let stdin = io::stdin().as_fd().try_clone_to_owned();
            let file = File::from(stdin.map_err(DatasetError::io(&name, "open"))?);
            (name, file)
        } else {
            (path.to_owned(), File::open(path).map_err(DatasetError::io(path, "open"))?)
        };
        let metadata = file.metadata().map_err(DatasetError::io(&path, "read the length"))?;
        if metadata.is_dir() {
            return Err(DatasetError::Input(format!("{}: a folder, where a file is expected", path.display())));
        }
        let mut head = Vec::with_capacity(HEAD_BYTES);
        let read = (&file).take(HEAD_BYTES as u64).read_to_end(&mut head);
        read.map_err(DatasetError::io(&path, "read"))?;
        Ok(Self { path, file, head, is_regular: metadata.is_file(), bytes: metadata.len() })
    }

    /// The name for messages.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of the file; 0 where nobody knows.
    pub(super) fn bytes(&self) -> u64 {
        if self.is_regular { self.bytes } else { 0 }
    }

    pub(super) fn kind(&self) -> Kind {
        match self.head.as_slice() {
            [0x93, b'N', b'U', b'M', b'P', b'Y', ..] => Kind::Npy,
            [0x1f, 0x8b, ..] => Kind::Gzip,
            [b'P', b'K', 3, 4, ..] => Kind::Zip,
            [b'B', b'Z', b'h', ..] => Kind::Packed("bunzip2"),
            [0xfd, b'7', b'z', b'X', b'Z', ..] => Kind::Packed("unxz"),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Kind::Packed("unzstd"),
            _ => Kind::Other,
        }
    }

    /// The bytes from the first on.
    pub(super) fn into_reader(self) -> impl Read {
        Cursor::new(self.head).chain(self.file)
    }

    /// The file, to be read at any place: a copy where it can be read only once. Standard input may be a file that was
    /// read in part: it is copied, too.
    pub(super) fn into_file(self, scratch: &Scratch) -> Result<File, DatasetError> {
        if self.is_regular && self.path != Path::new("standard input") {
            return Ok(self.file);
        }
        let path = self.path.clone();
        scratch.copy(&path, self.into_reader())
    }
}

/// Where temporary copies go: the disk on which the dataset will be.
#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// Beside the output folder `out`.
    pub(super) fn beside(out: &Path) -> Self {
        Self(parent(out).to_owned())
    }

    /// A file without a name.
    pub(super) fn file(&self) -> Result<File, DatasetError> {
        let failed = || DatasetError::io(&self.0, "make a temporary file in the folder");
        std::fs::create_dir_all(&self.0).map_err(failed())?;
        tempfile::tempfile_in(&self.0).map_err(failed())
    }

    /// A copy of all that `reader` has; `path` names its source.
    pub(super) fn copy(&self, path: &Path, mut reader: impl Read) -> Result<File, DatasetError> {
        let mut out = BufWriter::with_capacity(PIECE_BYTES, self.file()?);
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let read = match reader.read(&mut piece) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(DatasetError::io(path, "read")(source)),
            };
            out.write_all(&piece[..read]).map_err(DatasetError::io(&self.0, "write a temporary file in the folder"))?;
        }
        out.into_inner()
            .map_err(io::IntoInnerError::into_error)
            .map_err(DatasetError::io(&self.0, "write a temporary file in the folder"))
    }
}
