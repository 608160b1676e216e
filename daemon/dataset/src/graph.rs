//! An undirected graph in compressed sparse rows. It owns the form and its checks; it must never read or write a file.

/// An undirected graph in compressed sparse rows: each edge is stored at both of its ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CsrGraph {
    xadj: Vec<u64>,
    adjncy: Vec<u32>,
}

/// Why arrays or edges are not a graph.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// `xadj` and `adjncy` do not fit each other, or an edge ends nowhere.
    #[error("not a graph in compressed sparse rows: {0}")]
    Malformed(&'static str),
    /// Vertex ids are 32-bit.
    #[error("{0} vertices: at most {max} are possible", max = u32::MAX)]
    TooManyVertices(u64),
}

impl CsrGraph {
    /// A graph from its arrays: the neighbours of `v` are `adjncy[xadj[v]..xadj[v + 1]]`.
    ///
    /// # Errors
    /// [`GraphError::Malformed`] when the offsets do not ascend from 0 to the number of neighbours, or a neighbour is
    /// no vertex. Symmetry is the caller's word.
    pub fn new(xadj: Vec<u64>, adjncy: Vec<u32>) -> Result<Self, GraphError> {
        if xadj.first() != Some(&0) || xadj.last() != Some(&(adjncy.len() as u64)) || !xadj.is_sorted() {
            return Err(GraphError::Malformed("offsets must ascend from 0 to the number of neighbours"));
        }
        let vertices = xadj.len() as u64 - 1;
        if adjncy.iter().any(|&neighbour| u64::from(neighbour) >= vertices) {
            return Err(GraphError::Malformed("a neighbour is not below the number of vertices"));
        }
        Ok(Self { xadj, adjncy })
    }

    /// The undirected graph of `edges` over the vertices 0 to `vertices - 1`: both directions of each edge, without
    /// duplicates and without edges from a vertex to itself, neighbours ascending.
    ///
    /// # Errors
    /// [`GraphError`] when an end of an edge is no vertex, or ids do not fit 32 bits.
    pub fn from_edges(vertices: u64, edges: &[(u32, u32)]) -> Result<Self, GraphError> {
        let count = usize::try_from(vertices).ok().filter(|_| vertices <= u64::from(u32::MAX));
        let count = count.ok_or(GraphError::TooManyVertices(vertices))?;
        let mut ends = vec![0u64; count + 1];
        for &(a, b) in edges {
            if u64::from(a.max(b)) >= vertices {
                return Err(GraphError::Malformed("an edge ends at an id that is not below the number of vertices"));
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn what_is_not_a_graph_is_refused() {
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
    }
}
