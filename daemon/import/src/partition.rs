//! Splits a graph into parts that cut few edges, by METIS (Karypis and Kumar, 1998: "A fast and high quality multilevel
//! scheme for partitioning irregular graphs"). The only file that knows METIS; it must never read or write a file.

use rudder_dataset::{CsrGraph, GraphError};
use std::sync::Mutex;

use metis::option::Seed;

/// Why a graph cannot be split.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PartitionError {
    /// It is not a graph.
    #[error(transparent)]
    Graph(#[from] GraphError),
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
        return Ok(vec![0; vertices as usize]);
    }
    if graph.adjncy().is_empty() {
        // METIS cannot coarsen a graph without edges. Every split cuts nothing: take even ranges.
        return Ok((0..vertices).map(|vertex| (vertex * u64::from(parts) / vertices) as u16).collect());
    }
    check_metis_limits(vertices, graph.adjncy().len() as u64)?;
    let xadj: Vec<metis::Idx> = graph.xadj().iter().map(|&offset| offset as metis::Idx).collect();
    let adjncy: Vec<metis::Idx> = graph.adjncy().iter().map(|&neighbour| neighbour as metis::Idx).collect();
    let mut assignment = vec![0; vertices as usize];
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
    }

    proptest! {
        #[test]
        fn any_graph_is_split(edges in proptest::collection::vec((0u32..30, 0u32..30), 0..80), parts in 1u16..=30) {
            let graph = CsrGraph::from_edges(30, &edges).unwrap();
            let assignment = partition(&graph, parts, 1).unwrap();
            prop_assert_eq!(assignment.len(), 30);
            prop_assert!(assignment.iter().all(|&part| part < parts));
        }
    }
}
