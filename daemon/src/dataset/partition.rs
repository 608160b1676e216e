//! Splits a graph into parts that cut few edges, by METIS (Karypis and Kumar, 1998: "A fast and high quality multilevel
//! scheme for partitioning irregular graphs"). The only file that knows METIS; it must never read or write a file.

use std::sync::Mutex;

use metis::option::Seed;

/// An undirected graph in compressed sparse rows: each edge is stored at both of its ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CsrGraph {
    xadj: Vec<u64>,
    adjncy: Vec<u32>,
}

/// Why a graph is no graph or cannot be split.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PartitionError {
    /// `xadj` and `adjncy` do not fit each other.
    #[error("not a graph in compressed sparse rows: {0}")]
    Malformed(&'static str),
    /// Vertex ids are 32-bit.
    #[error("{0} vertices: at most {max} are possible", max = u32::MAX)]
    TooManyVertices(u64),
    /// METIS counts with 32 bits here.
    #[error(
        "{vertices} vertices and {neighbours} neighbour entries (two per edge): METIS counts at most {max} of either; \
         partition the graph elsewhere and import the result with `rudder import npy --book map:OWNER.npy`",
        max = metis::Idx::MAX
    )]
    TooLargeForMetis {
        /// Vertices of the graph.
        vertices: u64,
        /// Entries of `adjncy`.
        neighbours: u64,
    },
    /// More parts than vertices, or none.
    #[error("cannot split {vertices} vertices into {parts} parts: each part needs at least one vertex")]
    Parts {
        /// Vertices of the graph.
        vertices: u64,
        /// Parts asked for.
        parts: u16,
    },
    /// METIS failed.
    #[error("METIS failed: {0}")]
    Metis(String),
}

impl CsrGraph {
    /// A graph from its arrays: the neighbours of `v` are `adjncy[xadj[v]..xadj[v + 1]]`.
    ///
    /// # Errors
    /// [`PartitionError::Malformed`] when the offsets do not ascend from 0 to the number of neighbours, or a neighbour is
    /// no vertex. Symmetry is the caller's word.
    pub fn new(xadj: Vec<u64>, adjncy: Vec<u32>) -> Result<Self, PartitionError> {
        if xadj.first() != Some(&0) || xadj.last() != Some(&(adjncy.len() as u64)) || !xadj.is_sorted() {
            return Err(PartitionError::Malformed("offsets must ascend from 0 to the number of neighbours"));
        }
        let vertices = xadj.len() as u64 - 1;
        if adjncy.iter().any(|&neighbour| u64::from(neighbour) >= vertices) {
            return Err(PartitionError::Malformed("a neighbour is not below the number of vertices"));
        }
        Ok(Self { xadj, adjncy })
    }

    /// The undirected graph of `edges` over the vertices 0 to `vertices - 1`: both directions of each edge, without
    /// duplicates and without edges from a vertex to itself, neighbours ascending.
    ///
    /// # Errors
    /// [`PartitionError`] when an end of an edge is no vertex, or ids do not fit 32 bits.
    pub fn from_edges(vertices: u64, edges: &[(u32, u32)]) -> Result<Self, PartitionError> {
        let count = usize::try_from(vertices).ok().filter(|_| vertices <= u64::from(u32::MAX));
        let count = count.ok_or(PartitionError::TooManyVertices(vertices))?;
        let mut ends = vec![0u64; count + 1];
        for &(a, b) in edges {
            if u64::from(a.max(b)) >= vertices {
                return Err(PartitionError::Malformed(
                    "an edge ends at an id that is not below the number of vertices",
                ));
            }
            if a != b {
                ends[a as usize + 1] += 1;
                ends[b as usize + 1] += 1;
            }
        }
        for vertex in 0..count {
            ends[vertex + 1] += ends[vertex];
        }
        // Counting sort; afterwards `ends[v]` is where the neighbours of `v` end.
        let mut adjncy = vec![0u32; ends[count] as usize];
        for &(a, b) in edges.iter().filter(|(a, b)| a != b) {
            for (from, to) in [(a, b), (b, a)] {
                let slot = &mut ends[from as usize];
                adjncy[*slot as usize] = to;
                *slot += 1;
            }
        }
        Ok(Self::compact(&ends[..count], adjncy))
    }

    /// Sorts the neighbours of each vertex and drops duplicates, in place.
    fn compact(ends: &[u64], mut adjncy: Vec<u32>) -> Self {
        let mut xadj = Vec::with_capacity(ends.len() + 1);
        xadj.push(0);
        let (mut start, mut kept) = (0, 0);
        for &end in ends {
            let end = end as usize;
            adjncy[start..end].sort_unstable();
            let mut last = None;
            for from in start..end {
                let neighbour = adjncy[from];
                if last != Some(neighbour) {
                    adjncy[kept] = neighbour;
                    kept += 1;
                    last = Some(neighbour);
                }
            }
            xadj.push(kept as u64);
            start = end;
        }
        adjncy.truncate(kept);
        adjncy.shrink_to_fit();
        Self { xadj, adjncy }
    }

    /// Number of vertices.
    #[must_use]
    pub fn vertices(&self) -> u64 {
        self.xadj.len() as u64 - 1
    }

    /// Number of undirected edges.
    #[must_use]
    pub fn edges(&self) -> u64 {
        self.adjncy.len() as u64 / 2
    }

    /// Neighbours of `vertex`; none when there is no such vertex.
    #[inline]
    #[must_use]
    pub fn neighbours(&self, vertex: u32) -> &[u32] {
        let vertex = vertex as usize;
        match (self.xadj.get(vertex), self.xadj.get(vertex + 1)) {
            (Some(&start), Some(&end)) => &self.adjncy[start as usize..end as usize],
            _ => &[],
        }
    }

    /// Where the neighbours of each vertex begin; vertices + 1 numbers.
    #[must_use]
    pub fn xadj(&self) -> &[u64] {
        &self.xadj
    }

    /// All neighbours.
    #[must_use]
    pub fn adjncy(&self) -> &[u32] {
        &self.adjncy
    }

    /// Each undirected edge once, smaller id first.
    pub fn iter_edges(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        let vertices = 0..self.vertices() as u32;
        vertices.flat_map(|a| self.neighbours(a).iter().filter(move |&&b| a < b).map(move |&b| (a, b)))
    }
}

/// METIS draws from the C library's `rand`, which all threads of a process share: one caller at a time keeps a seed's
/// result the same.
static METIS: Mutex<()> = Mutex::new(());

/// Assigns each vertex to one of `parts` parts of about equal size, cutting few edges. The same seed gives the same
/// answer on the same machine.
///
/// # Errors
/// [`PartitionError`] when the graph is too large for METIS's 32-bit counts, or has fewer vertices than parts.
pub fn partition(graph: &CsrGraph, parts: u16, seed: i32) -> Result<Vec<u16>, PartitionError> {
    let vertices = graph.vertices();
    if parts == 0 || (vertices < u64::from(parts) && parts > 1) {
        return Err(PartitionError::Parts { vertices, parts });
    }
    if parts == 1 {
        return Ok(vec![0; graph.xadj.len() - 1]);
    }
    if graph.adjncy.is_empty() {
        // METIS cannot coarsen a graph without edges. Every split cuts nothing: take even ranges.
        return Ok((0..vertices).map(|vertex| (vertex * u64::from(parts) / vertices) as u16).collect());
    }
    check_metis_limits(vertices, graph.adjncy.len() as u64)?;
    let xadj: Vec<metis::Idx> = graph.xadj.iter().map(|&offset| offset as metis::Idx).collect();
    let adjncy: Vec<metis::Idx> = graph.adjncy.iter().map(|&neighbour| neighbour as metis::Idx).collect();
    let mut assignment = vec![0; graph.xadj.len() - 1];
    // A panic of another caller leaves nothing of ours behind the lock.
    let _guard = METIS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    metis::Graph::new(1, metis::Idx::from(parts), &xadj, &adjncy)
        .map_err(|error| PartitionError::Metis(error.to_string()))?
        .set_option(Seed(seed))
        .part_kway(&mut assignment)
        .map_err(|error| PartitionError::Metis(error.to_string()))?;
    Ok(assignment.into_iter().map(|part| part as u16).collect())
}

fn check_metis_limits(vertices: u64, neighbours: u64) -> Result<(), PartitionError> {
    let max = metis::Idx::MAX as u64;
    // One more offset than vertices.
    if vertices >= max || neighbours > max {
        return Err(PartitionError::TooLargeForMetis { vertices, neighbours });
    }
    Ok(())
}

/// Undirected edges whose ends lie in different parts.
#[must_use]
pub fn edge_cut(graph: &CsrGraph, assignment: &[u16]) -> u64 {
    graph.iter_edges().filter(|&(a, b)| assignment[a as usize] != assignment[b as usize]).count() as u64
}

/// Size of the largest part over the mean size: 1.0 is perfect balance.
#[must_use]
pub fn balance(assignment: &[u16], parts: u16) -> f64 {
    let mut sizes = vec![0u64; usize::from(parts)];
    for &part in assignment {
        sizes[usize::from(part)] += 1;
    }
    let largest = sizes.iter().copied().max().unwrap_or(0);
    if assignment.is_empty() { 1.0 } else { largest as f64 * f64::from(parts) / assignment.len() as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Two cliques of `size` with one edge between them.
    fn barbell(size: u32) -> CsrGraph {
        let mut edges = vec![(0, size)];
        for clique in [0, size] {
            for a in 0..size {
                edges.extend((a + 1..size).map(|b| (clique + a, clique + b)));
            }
        }
        CsrGraph::from_edges(u64::from(size) * 2, &edges).unwrap()
    }

    #[test]
    fn finds_the_bridge() {
        let graph = barbell(40);
        let assignment = partition(&graph, 2, 7).unwrap();
        assert_eq!(edge_cut(&graph, &assignment), 1);
        assert!((balance(&assignment, 2) - 1.0).abs() < 1e-9);
        assert_eq!(assignment, partition(&graph, 2, 7).unwrap(), "the same seed gives the same parts");
    }

    #[test]
    fn one_part_and_no_edges_need_no_metis() {
        let graph = barbell(5);
        assert_eq!(partition(&graph, 1, 0).unwrap(), vec![0; 10]);
        assert_eq!(partition(&CsrGraph::from_edges(0, &[]).unwrap(), 1, 0).unwrap(), Vec::<u16>::new());
        let empty = CsrGraph::from_edges(10, &[]).unwrap();
        let assignment = partition(&empty, 4, 0).unwrap();
        assert!(balance(&assignment, 4) <= 1.2 && assignment.contains(&3), "{assignment:?}");
    }

    #[test]
    fn bad_requests_say_why() {
        let graph = barbell(2);
        assert_eq!(partition(&graph, 5, 0).unwrap_err(), PartitionError::Parts { vertices: 4, parts: 5 });
        assert_eq!(partition(&graph, 0, 0).unwrap_err(), PartitionError::Parts { vertices: 4, parts: 0 });
        let error = check_metis_limits(10, 1 << 31).unwrap_err().to_string();
        assert!(error.contains("2147483648 neighbour entries") && error.contains("map:OWNER.npy"), "{error}");
        assert!(CsrGraph::from_edges(3, &[(0, 3)]).is_err());
        assert!(CsrGraph::from_edges(1 << 32, &[]).is_err());
        assert!(CsrGraph::new(vec![0, 2, 1], vec![0]).is_err());
        assert!(CsrGraph::new(vec![0, 1], vec![1]).is_err());
        assert!(CsrGraph::new(vec![], vec![]).is_err());
    }

    proptest! {
        #[test]
        fn from_edges_is_the_symmetric_set(edges in proptest::collection::vec((0u32..30, 0u32..30), 0..200)) {
            let graph = CsrGraph::from_edges(30, &edges).unwrap();
            let expected: BTreeSet<(u32, u32)> =
                edges.iter().filter(|(a, b)| a != b).map(|&(a, b)| (a.min(b), a.max(b))).collect();
            prop_assert_eq!(graph.iter_edges().collect::<BTreeSet<_>>(), expected.clone());
            prop_assert_eq!(graph.edges(), expected.len() as u64);
            for a in 0..30 {
                prop_assert!(graph.neighbours(a).is_sorted_by(|x, y| x < y));
                for &b in graph.neighbours(a) { prop_assert!(graph.neighbours(b).contains(&a)); }
            }
            prop_assert_eq!(CsrGraph::new(graph.xadj().to_vec(), graph.adjncy().to_vec()).unwrap(), graph);
        }

        #[test]
        fn any_graph_is_split(edges in proptest::collection::vec((0u32..30, 0u32..30), 0..80), parts in 1u16..=30) {
            let graph = CsrGraph::from_edges(30, &edges).unwrap();
            let assignment = partition(&graph, parts, 1).unwrap();
            prop_assert_eq!(assignment.len(), 30);
            prop_assert!(assignment.iter().all(|&part| part < parts));
        }
    }
}
