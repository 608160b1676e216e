//! Who the vertices are: a count, or names in the order of rows. Owns the ids of names, and how far ids without a count
//! may reach. It must never give two vertices one id.

use std::path::{Path, PathBuf};

use hashbrown::HashMap;

use crate::array::read_integers;
use crate::input::{Input, Kind, Scratch};
use crate::text::Lines;
use rudder_dataset::DatasetError;

/// Ids up to this many need no edges to justify them.
const IDS_MIN: u64 = 1_000_000;

/// Vertices that an edge may stand for, its own two ends and isolated ones.
const IDS_PER_EDGE: u64 = 32;

/// What is said of the vertices beside the edges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VertexSource {
    /// There are this many: ids are 0 to count - 1.
    Count(u64),
    /// A file with their names in the order of ids and of rows: text with one per line, or a `.npy` of integers.
    Names(PathBuf),
}

/// Names and the ids they have, ids in the order of names.
#[derive(Clone, Debug, Default)]
pub struct Names {
    list: Vec<String>,
    ids: HashMap<String, u32>,
    /// Where all names come from; names that are not there are errors.
    source: Option<PathBuf>,
}

impl Names {
    /// Reads the names of all vertices.
    ///
    /// # Errors
    /// [`DatasetError`] naming file and line: an empty line, a name that is there twice.
    pub(super) fn read(path: &Path, scratch: &Scratch, progress: &dyn Fn(u64, u64)) -> Result<Self, DatasetError> {
        let input = Input::open(path)?;
        let mut names = Self::default();
        if input.kind() == Kind::Npy {
            for (row, id) in read_integers(input, scratch)?.into_iter().enumerate() {
                let name = id.to_string();
                let twice = || DatasetError::Input(format!("{}: row {row}: {name} is there twice", path.display()));
                names.add_new(&name).map_err(|_| twice())?;
            }
        } else {
            let mut lines = Lines::of(input, progress)?;
            // Blank lines are nothing at the end of a file, and a vertex without a name elsewhere.
            let mut blank = None;
            while lines.advance()? {
                let name = unquoted(lines.line().trim());
                if name.is_empty() {
                    blank.get_or_insert(lines.number());
                    continue;
                }
                if let Some(line) = blank {
                    return Err(lines.error_at(line, "an empty line: each vertex needs a name"));
                }
                names.add_new(&name).map_err(|what| lines.error(what))?;
            }
        }
        names.source = Some(path.to_owned());
        Ok(names)
    }

    fn add_new(&mut self, name: &str) -> Result<(), String> {
        let before = self.list.len();
        self.id_of(name)?;
        if self.list.len() == before { Err(format!("the vertex `{name}` is there twice")) } else { Ok(()) }
    }

    /// The id of a name; a new name gets the next id.
    pub(super) fn id_of(&mut self, name: &str) -> Result<u32, String> {
        if let Some(&id) = self.ids.get(name) {
            return Ok(id);
        }
        if let Some(source) = &self.source {
            return Err(format!("the vertex `{name}` is not in {}", source.display()));
        }
        let id = u32::try_from(self.list.len()).ok().filter(|&id| id < u32::MAX);
        let id = id.ok_or_else(|| format!("more than {} vertices", u32::MAX))?;
        self.list.push(name.to_owned());
        self.ids.insert(name.to_owned(), id);
        Ok(id)
    }

    /// The id of a name that is known.
    pub(super) fn get(&self, name: &str) -> Option<u32> {
        self.ids.get(name).copied()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.list.len() as u64
    }

    /// Whether there is no name.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Names in the order of ids.
    #[must_use]
    pub fn list(&self) -> &[String] {
        &self.list
    }

    /// The file that names all vertices in the order of rows.
    pub(super) fn source(&self) -> Option<&Path> {
        self.source.as_deref()
    }

    /// Forgets the first names; ids of the others go down.
    pub(super) fn drop_first(&mut self, count: usize) {
        self.list.drain(..count.min(self.list.len()));
        self.ids = self.list.iter().cloned().zip(0..).collect();
    }

    /// Puts the names of `first` in front, in their order; gives the new id of each old one.
    pub(super) fn put_first<'a>(&mut self, first: impl Iterator<Item = &'a str>) -> Result<Vec<u32>, String> {
        let mut ordered = Self::default();
        for name in first {
            ordered.id_of(name)?;
        }
        let moved = self.list.iter().map(|name| ordered.id_of(name)).collect::<Result<_, _>>()?;
        *self = ordered;
        Ok(moved)
    }
}

/// A name without the quotes around it.
fn unquoted(text: &str) -> String {
    match text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
        Some(inner) => inner.replace("\"\"", "\""),
        None => text.to_owned(),
    }
}

/// How many vertices there are, and who says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowCount {
    /// Vertices.
    pub rows: u64,
    /// The file or option, for messages.
    pub by: String,
}

/// Fails unless `id` is a vertex. Without a count of vertices, an id may be 1,000,000 or 32 times the number of edges,
/// whichever is more: beyond that, ids are sparse, and a row for each number up to the greatest would be wasted.
pub(super) fn check_id(id: u64, edges: u64, rows: Option<&RowCount>) -> Result<(), String> {
    if let Some(RowCount { rows, by }) = rows {
        return if id < *rows {
            Ok(())
        } else {
            Err(format!("the vertex id {id}, but {by} has {rows} rows: ids are below that"))
        };
    }
    let bound = IDS_MIN.max(edges.saturating_mul(IDS_PER_EDGE)).min(u64::from(u32::MAX) - 1);
    if id < bound {
        return Ok(());
    }
    Err(format!(
        "the vertex id {id}, where {edges} edges justify ids below {bound}: if ids are sparse, read them as names \
         (--names); if there is a vertex for each number, say how many there are (--vertices)"
    ))
}
