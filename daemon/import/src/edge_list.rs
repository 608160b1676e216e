//! Reads edge lists: text with two columns, or an array of pairs. Vertices are integers, or names that get ids. It must
//! never decide what an edge means: direction and duplicates are the caller's.

use std::path::Path;

use hashbrown::HashMap;

use crate::array::read_integers;
use crate::text::Lines;
use rudder_dataset::DatasetError;
use rudder_dataset::npy::NpyHeader;

/// Edges in the order of the file, ends as 32-bit ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EdgeList {
    /// The pairs.
    pub edges: Vec<(u32, u32)>,
    /// One more than the greatest id, or the number of names.
    pub vertices: u64,
    /// Names by id, when the vertices of the file are names.
    pub names: Option<Vec<String>>,
}

/// Reads the edges of `path`: a `.npy` array of integers, `[m, 2]` or `[2, m]`; else text, one edge per line, its two
/// ends separated by white space, comma or semicolon, `#` begins a comment, `.gz` is unpacked. Ends are integers, or
/// names if any is not an integer or `force_names` says so. Names get the ids that `known_names` gives them, others the
/// ids after those, in the order of appearance.
///
/// # Errors
/// [`DatasetError`] naming file and line.
pub fn read_edges(
    path: &Path,
    known_names: &[String],
    force_names: bool,
    progress: &dyn Fn(u64, u64),
) -> Result<EdgeList, DatasetError> {
    if path.extension().is_some_and(|extension| extension == "npy") {
        return read_array(path);
    }
    if !force_names && let Some(edges) = read_text_integers(path, progress)? {
        return Ok(edges);
    }
    read_text_names(path, known_names, progress)
}

fn read_array(path: &Path) -> Result<EdgeList, DatasetError> {
    let mut file = std::fs::File::open(path).map_err(DatasetError::io(path, "open"))?;
    let header = NpyHeader::read(&mut file).map_err(DatasetError::npy(path))?;
    // PyG keeps its `edge_index` as two rows.
    let is_two_rows = header.rows() == 2 && header.width() != 2;
    let ids = read_integers(path, if is_two_rows { header.width() } else { 2 })?;
    let mut list = EdgeList::default();
    let mut push = |row: usize, a: u64, b: u64| {
        let too_large = |id| DatasetError::Input(format!("{}: edge {row}: {}", path.display(), too_large(id)));
        list.push(a, b).map_err(too_large)
    };
    if is_two_rows {
        let (from, to) = ids.split_at(ids.len() / 2);
        from.iter().zip(to).enumerate().try_for_each(|(row, (&a, &b))| push(row, a, b))?;
    } else {
        ids.chunks_exact(2).enumerate().try_for_each(|(row, pair)| push(row, pair[0], pair[1]))?;
    }
    Ok(list)
}

/// `None` when the vertices of the file are names.
fn read_text_integers(path: &Path, progress: &dyn Fn(u64, u64)) -> Result<Option<EdgeList>, DatasetError> {
    let mut lines = Lines::open(path, progress)?;
    let mut list = EdgeList::default();
    let mut first_is_text = false;
    let mut is_first = true;
    while lines.advance()? {
        let Some((a, b)) = split(lines.line()).map_err(|what| lines.error(what))? else { continue };
        match (a.parse::<u64>(), b.parse::<u64>()) {
            (Ok(_), Ok(_)) if first_is_text => {
                return Err(lines.error(
                    "a pair of integers after a first line that is not one: put `#` before the first line if it is a \
                     heading, or say that the vertices are names (--names)",
                ));
            }
            (Ok(a), Ok(b)) => list.push(a, b).map_err(|id| lines.error(too_large(id)))?,
            _ if is_first => first_is_text = true,
            _ => return Ok(None),
        }
        is_first = false;
    }
    Ok((!first_is_text).then_some(list))
}

fn read_text_names(path: &Path, known_names: &[String], progress: &dyn Fn(u64, u64)) -> Result<EdgeList, DatasetError> {
    let mut names = known_names.to_vec();
    let mut ids: HashMap<String, u32> = names.iter().cloned().zip(0..).collect();
    let mut lines = Lines::open(path, progress)?;
    let mut list = EdgeList::default();
    while lines.advance()? {
        let Some((a, b)) = split(lines.line()).map_err(|what| lines.error(what))? else { continue };
        let mut id_of = |name: &str| match ids.get(name) {
            Some(&id) => Some(id),
            None => {
                let id = u32::try_from(names.len()).ok().filter(|&id| id < u32::MAX)?;
                names.push(name.to_owned());
                ids.insert(name.to_owned(), id);
                Some(id)
            }
        };
        match (id_of(a), id_of(b)) {
            (Some(a), Some(b)) => list.edges.push((a, b)),
            _ => return Err(lines.error(format!("more than {} vertices", u32::MAX))),
        }
    }
    Ok(EdgeList { edges: list.edges, vertices: names.len() as u64, names: Some(names) })
}

impl EdgeList {
    /// Adds an edge; the id that does not fit is the error.
    fn push(&mut self, a: u64, b: u64) -> Result<(), u64> {
        let max = a.max(b);
        if max >= u64::from(u32::MAX) {
            return Err(max);
        }
        self.vertices = self.vertices.max(max + 1);
        self.edges.push((a as u32, b as u32));
        Ok(())
    }
}

fn too_large(id: u64) -> String {
    format!("the vertex id {id} is above {}: if ids are sparse, treat them as names (--names)", u32::MAX - 1)
}

/// The two columns of a line; `None` when it is blank.
fn split(line: &str) -> Result<Option<(&str, &str)>, String> {
    let mut columns =
        line.split(|c: char| c.is_whitespace() || c == ',' || c == ';').filter(|column| !column.is_empty());
    match (columns.next(), columns.next(), columns.next()) {
        (None, ..) => Ok(None),
        (Some(a), Some(b), None) => Ok(Some((a, b))),
        (Some(_), None, _) => Err("one column: an edge has two ends".into()),
        (Some(_), Some(_), Some(_)) => {
            Err(format!("{} columns: an edge has two ends and nothing else", columns.count() + 3))
        }
    }
}
