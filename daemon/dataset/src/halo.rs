//! Which vertices of other parts the vertices of one part touch, and by how many edges. It owns a single pass over the
//! neighbours of the part's own vertices; it must never hold the graph in memory.

use super::error::DatasetError;
use super::manifest::{MANIFEST_FILE, resolve};
use super::map::{ReadOrder, map};
use super::npy::{NpyHeader, NpyType};
use super::open::{Dataset, Table};
use memmap2::Mmap;
use std::fs::File;
use std::path::PathBuf;

/// A mapped `.npy` array of unsigned integers.
struct Mapped {
    map: Mmap,
    data_offset: usize,
}

impl Mapped {
    fn open(path: PathBuf, element: NpyType, rows: u64) -> Result<Self, DatasetError> {
        let mut file = File::open(&path).map_err(DatasetError::io(&path, "open"))?;
        let header = NpyHeader::read(&mut file).map_err(DatasetError::npy(&path))?;
        if header.element != element || header.rows() != rows || header.width() != 1 {
            let expected = format!(
                "`graph`: {rows} elements of {element:?} expected, {} of {:?} found",
                header.shape, header.element
            );
            return Err(DatasetError::Manifest { path, what: expected });
        }
        let map = map(&file, ReadOrder::Sequential).map_err(DatasetError::io(&path, "map"))?;
        let expected = header.data_offset + rows * element.size() as u64;
        if (map.len() as u64) < expected {
            return Err(DatasetError::Truncated { path, found: map.len() as u64, expected });
        }
        Ok(Self { map, data_offset: header.data_offset as usize })
    }

    /// The bytes of element `at` of `N` bytes; zero beyond the end.
    fn element<const N: usize>(&self, at: usize) -> [u8; N] {
        let start = self.data_offset + at * N;
        self.map.get(start..start + N).and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; N])
    }
}

impl Dataset {
    /// For each vertex of another part that a vertex of this node's part has an edge to, the number of such edges; ids
    /// of the vertex type of `table`, ascending. `None` when the dataset does not hold its graph, or holds that of
    /// another type.
    ///
    /// The files are bounded but their checksums are not verified: what is read here decides nothing but what is
    /// cached.
    ///
    /// # Errors
    /// [`DatasetError`] naming the file.
    pub fn remote_degrees(&self, table: &Table) -> Result<Option<Vec<(u32, f32)>>, DatasetError> {
        let Some(graph) = &self.manifest().graph else { return Ok(None) };
        let (Some(indptr), Some(indices)) = (&graph.indptr, &graph.indices) else { return Ok(None) };
        if graph.vertex_type != table.vertex_type || table.rows > u64::from(u32::MAX) {
            return Ok(None);
        }
        let offsets = Mapped::open(resolve(self.dir(), indptr), NpyType::U64, table.rows + 1)?;
        let entries = graph.edges.saturating_mul(2);
        let neighbours = Mapped::open(resolve(self.dir(), indices), NpyType::U32, entries)?;
        let is_own = |id: u64| table.book.locate(id).is_some_and(|location| location.part == self.node());
        let mut degrees = vec![0u32; table.rows as usize];
        for vertex in (0..table.rows).filter(|&vertex| is_own(vertex)) {
            let [begin, end] = [vertex, vertex + 1].map(|at| u64::from_le_bytes(offsets.element(at as usize)));
            if begin > end || end > entries {
                let what = format!("`graph`: the neighbours of vertex {vertex} are {begin}..{end} of {entries}");
                return Err(DatasetError::Manifest { path: self.dir().join(MANIFEST_FILE), what });
            }
            for at in begin..end {
                let neighbour = u32::from_le_bytes(neighbours.element(at as usize));
                if let Some(degree) = degrees.get_mut(neighbour as usize) {
                    *degree += 1;
                }
            }
        }
        let touched = (0u32..).zip(degrees).filter(|&(id, degree)| degree > 0 && !is_own(u64::from(id)));
        Ok(Some(touched.map(|(id, degree)| (id, degree as f32)).collect()))
    }
}
