//! Owns the form that all graphs of the demo take: undirected, compressed sparse rows, one label per vertex. Must never
//! know where a graph comes from.

use crate::error::DemoError;
use rudder_dataset::CsrGraph;

/// Builds the graph of `vertices` vertices from the edges that `edges` hands to its argument. It is called twice (first
/// to count, then to fill) and must hand out the same edges, so that no list of them is ever held. Loops and repeats
/// are dropped. Ends must be below `vertices`.
///
/// # Errors
/// Never: what is built here is a graph.
pub(crate) fn build(vertices: u32, edges: impl Fn(&mut dyn FnMut(u32, u32))) -> Result<CsrGraph, DemoError> {
    let mut xadj = vec![0_u64; vertices as usize + 1];
    edges(&mut |a, b| {
        if a != b {
            xadj[a as usize] += 1;
            xadj[b as usize] += 1;
        }
    });
    // After this `xadj[v]` is where the neighbours of `v` end; filling backwards leaves it where they begin.
    let mut end = 0;
    for offset in &mut xadj {
        end += *offset;
        *offset = end;
    }
    let mut adjncy = vec![0_u32; end as usize];
    edges(&mut |a, b| {
        if a != b {
            for (from, to) in [(a, b), (b, a)] {
                xadj[from as usize] -= 1;
                adjncy[xadj[from as usize] as usize] = to;
            }
        }
    });
    sort_and_drop_repeats(&mut xadj, &mut adjncy);
    CsrGraph::new(xadj, adjncy).map_err(DemoError::prepare("build the graph"))
}

/// Sorts each vertex's neighbours and closes the gaps that repeats leave, in place.
fn sort_and_drop_repeats(xadj: &mut [u64], adjncy: &mut Vec<u32>) {
    let (mut kept, mut begin) = (0, 0);
    for vertex in 0..xadj.len() - 1 {
        let end = xadj[vertex + 1] as usize;
        adjncy[begin..end].sort_unstable();
        xadj[vertex] = kept as u64;
        let first = kept;
        for read in begin..end {
            let neighbour = adjncy[read];
            if kept == first || adjncy[kept - 1] != neighbour {
                adjncy[kept] = neighbour;
                kept += 1;
            }
        }
        begin = end;
    }
    if let Some(last) = xadj.last_mut() {
        *last = kept as u64;
    }
    adjncy.truncate(kept);
    adjncy.shrink_to_fit();
}

/// What the features of a graph's vertices are made from.
pub(crate) enum Origin {
    /// Package names, by vertex.
    Names(Vec<String>),
    /// Community of each vertex, and the seed of the noise.
    Communities { of: Vec<u16>, seed: u64 },
}

/// A graph with labels.
pub(crate) struct Graph {
    pub(crate) adjacency: CsrGraph,
    /// Class of each vertex, below `classes`.
    pub(crate) labels: Vec<u16>,
    pub(crate) classes: u16,
    pub(crate) origin: Origin,
}

impl Graph {
    /// Share of the vertices that the most frequent class holds: what a constant guess would get.
    pub(crate) fn largest_class_share(&self) -> f64 {
        let mut counts = vec![0_u64; usize::from(self.classes)];
        for &label in &self.labels {
            counts[usize::from(label)] += 1;
        }
        counts.into_iter().max().unwrap_or(0) as f64 / self.labels.len().max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adjacency_drops_loops_and_repeats_and_is_symmetric() {
        let edges = [(3, 1), (1, 3), (0, 0), (2, 0), (3, 1), (4, 3)];
        let graph = build(6, |emit| edges.iter().for_each(|&(a, b)| emit(a, b))).unwrap();
        assert_eq!(graph.edges(), 3);
        let lists: Vec<&[u32]> = (0..6).map(|v| graph.neighbours(v)).collect();
        assert_eq!(lists, [&[2][..], &[3], &[0], &[1, 4], &[3], &[]]);
    }
}
