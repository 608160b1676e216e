//! Tables whose rows stay where they lie, inside files of other formats: the dataset gets links to the files, and the
//! manifest says at which byte the rows of each part begin. No row is copied; they are read once, for their checksums.
//! It must never change a file that it links to.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::staging::gate;
use crate::writer::DatasetWriter;
use rudder_dataset::manifest::{FileManifest, ShardManifest};
use rudder_dataset::{DatasetError, Part, RowForm, checksum_of_piece};

/// Folder of the links in a dataset.
const LINKS: &str = "links";

/// Where the rows of one part begin in a file of another format. They are row-major, little endian, without padding,
/// and need not be aligned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorPiece {
    /// The file.
    pub path: PathBuf,
    /// Byte of the file at which the first row begins.
    pub offset: u64,
}

impl DatasetWriter {
    /// Adds a table whose rows stay where they are: one piece per part, in the order of parts. Several tables may have
    /// pieces of the same file. `progress` gets the bytes of each read.
    ///
    /// # Errors
    /// As [`DatasetWriter::add_table`]; [`DatasetError`] naming a file that cannot be read or ends before its rows do.
    pub fn add_linked_table(
        &mut self,
        name: &str,
        vertex_type: &str,
        form: &RowForm,
        pieces: &[TensorPiece],
        progress: &dyn Fn(u64),
    ) -> Result<(), DatasetError> {
        let (index, book) = self.push_table(name, vertex_type, form)?;
        if pieces.len() != usize::from(book.parts()) {
            let what = format!("{} pieces for {} parts", pieces.len(), book.parts());
            return Err(DatasetError::Rows { table: name.to_owned(), what });
        }
        let row_bytes = form.row_bytes() as u64;
        let mut shards = Vec::with_capacity(pieces.len());
        for (part, TensorPiece { path, offset }) in Part::all(book.parts()).zip(pieces) {
            let rows = book.owned(part);
            let bytes = rows.checked_mul(row_bytes).ok_or_else(|| DatasetError::Rows {
                table: name.to_owned(),
                what: format!("{rows} rows of {row_bytes} bytes are more than a file can hold"),
            })?;
            let checksum = checksum_of_piece(path, *offset, bytes, progress)?;
            let link = self.link(path)?;
            shards.push(ShardManifest { rows, file: FileManifest::piece(link, *offset, bytes, Some(checksum)) });
        }
        if let Some(table) = self.manifest.tables.get_mut(index) {
            table.shards = shards;
        }
        Ok(())
    }

    /// Path, from the dataset's folder, of a link to `target`; one link for each file.
    fn link(&self, target: &Path) -> Result<String, DatasetError> {
        let target = fs::canonicalize(target).map_err(DatasetError::io(target, "find"))?;
        let folder = self.staging.data().join(LINKS);
        let _gate = gate();
        fs::create_dir_all(&folder).map_err(DatasetError::io(&folder, "create the folder"))?;
        let name = target.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        for number in 0u64.. {
            let relative = format!("{LINKS}/{number}.{name}");
            let link = self.staging.data().join(&relative);
            match fs::read_link(&link) {
                Ok(other) if other == target => return Ok(relative),
                Ok(_) => {}
                Err(_) => {
                    symlink(&target, &link).map_err(DatasetError::io(&link, "create the link"))?;
                    return Ok(relative);
                }
            }
        }
        Err(DatasetError::Input(format!("{}: too many links", folder.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BookSpec, Existing};
    use rudder_client::DType;
    use rudder_dataset::{Access, BlockSettings, Dataset, LocalRow, MANIFEST_FILE, Verify, WantedRow};

    const ROWS: u64 = 7;
    const OFFSETS: [u64; 2] = [13, 77];

    /// A file with the rows of two parts at odd places, and a dataset that links to it.
    fn sample(folder: &Path) -> (PathBuf, PathBuf) {
        let (source, dir) = (folder.join("a b.bin"), folder.join("data"));
        let mut bytes = vec![0xEE; 200];
        for id in 0..ROWS {
            let at = if id < 3 { OFFSETS[0] + id * 6 } else { OFFSETS[1] + (id - 3) * 6 } as usize;
            bytes[at..at + 6].copy_from_slice(&row(id));
        }
        fs::write(&source, bytes).unwrap();
        let mut writer = DatasetWriter::create(&dir, "linked", 2, Existing::Refuse).unwrap();
        writer.add_book("_N", BookSpec::Ranges(&[0, 3, ROWS])).unwrap();
        let pieces = OFFSETS.map(|offset| TensorPiece { path: source.clone(), offset });
        writer.add_linked_table("feat", "_N", &RowForm::new(DType::I16, &[3]).unwrap(), &pieces, &|_| ()).unwrap();
        writer.finish().unwrap();
        (source, dir)
    }

    fn row(id: u64) -> [u8; 6] {
        std::array::from_fn(|at| (id * 10 + at as u64) as u8)
    }

    fn open(dir: &Path, part: u16, access: Access) -> Result<Dataset, DatasetError> {
        let blocks = (access == Access::Blocks).then(BlockSettings::default);
        Dataset::open_with(dir, Part(part), Verify::Full, blocks, &|_, _| ())
    }

    #[test]
    fn rows_are_served_from_where_they_lie() {
        let folder = tempfile::tempdir().unwrap();
        let (source, dir) = sample(folder.path());
        for (part, ids) in [(0, 0..3), (1, 3..ROWS)] {
            let mapped = open(&dir, part, Access::Map).unwrap();
            let blocks = open(&dir, part, Access::Blocks).unwrap();
            for (local, id) in ids.clone().enumerate() {
                let local = LocalRow(local as u64);
                assert_eq!(mapped.tables()[0].shard.row(local).unwrap(), row(id));
                let mut read = Vec::new();
                let shard = blocks.tables()[0].shard.blocks().unwrap();
                shard.read(&[WantedRow { row: local, at: 0 }], |_, bytes| read.extend_from_slice(bytes)).unwrap();
                assert_eq!(read, row(id));
            }
            let owned = (ids.end - ids.start) as usize;
            assert_eq!(mapped.tables()[0].shard.bytes().unwrap().len(), owned * 6, "no byte beside the rows");
            assert!(mapped.tables()[0].shard.row(LocalRow(owned as u64)).is_none());
        }
        assert_eq!(fs::read_dir(dir.join(LINKS)).unwrap().count(), 1, "one link for one file");
        assert_eq!(fs::canonicalize(dir.join("links/0.a b.bin")).unwrap(), fs::canonicalize(source).unwrap());
    }

    #[test]
    fn a_piece_that_is_cut_changed_or_gone_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let (source, dir) = sample(folder.path());
        let whole = fs::read(&source).unwrap();
        let fails = |part, words: &[&str]| {
            let message = open(&dir, part, Access::Map).unwrap_err().to_string();
            assert!(words.iter().all(|word| message.contains(word)), "{message} should say {words:?}");
        };
        let mut changed = whole.clone();
        changed[OFFSETS[1] as usize + 5] ^= 1;
        fs::write(&source, &changed).unwrap();
        fails(1, &["0.a b.bin", "checksum mismatch"]);
        open(&dir, 0, Access::Map).expect("another part's rows are not this node's to check");
        fs::write(&source, &whole[..OFFSETS[1] as usize + 23]).unwrap();
        fails(1, &["0.a b.bin", "truncated: 100 bytes", "24 bytes from offset 77"]);
        fs::remove_file(&source).unwrap();
        fails(0, &["0.a b.bin", "missing"]);
    }

    #[test]
    fn manifests_with_senseless_pieces_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (_, dir) = sample(folder.path());
        let path = dir.join(MANIFEST_FILE);
        let good: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        type Edit = fn(&mut serde_json::Value);
        let cases: [(Edit, &str); 4] = [
            (|file| file["bytes"] = 17.into(), "a piece of 17 bytes does not hold 3 rows of 6 bytes"),
            (|file| file["offset"] = u64::MAX.into(), "is no length of a file"),
            (|file| file["path"] = "/etc/passwd".into(), "leaves the dataset's folder"),
            (
                |file| {
                    let fields = file.as_object_mut().unwrap();
                    fields.remove("offset");
                    fields.remove("xxh3");
                },
                "no `xxh3`",
            ),
        ];
        for (edit, expected) in cases {
            let mut manifest = good.clone();
            edit(&mut manifest["tables"][0]["shards"][0]["file"]);
            fs::write(&path, manifest.to_string()).unwrap();
            let message = open(&dir, 0, Access::Map).unwrap_err().to_string();
            assert!(message.contains(expected), "{message} should say {expected}");
        }
        let mut manifest = good.clone();
        manifest["vertex_types"][0]["names"] = good["tables"][0]["shards"][0]["file"].clone();
        fs::write(&path, manifest.to_string()).unwrap();
        assert!(open(&dir, 0, Access::Map).unwrap_err().to_string().contains("only the file of a shard"));
    }
}
