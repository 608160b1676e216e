//! Renames vertices so that each part owns one contiguous range of ids, and applies the new names to edges and
//! per-vertex arrays. Pure arithmetic: it must never choose a part.

use rudder_dataset::{CsrGraph, GraphError};

/// A renaming of vertices by part. Inside a part the old order is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relabelling {
    starts: Vec<u64>,
    old_of_new: Vec<u32>,
    new_of_old: Vec<u32>,
}

impl Relabelling {
    /// From the part of each vertex.
    ///
    /// # Errors
    /// [`GraphError`] when a part is not below `parts`, or ids do not fit 32 bits.
    pub fn new(assignment: &[u16], parts: u16) -> Result<Self, GraphError> {
        if assignment.len() as u64 > u64::from(u32::MAX) {
            return Err(GraphError::TooManyVertices(assignment.len() as u64));
        }
        let mut starts = vec![0u64; usize::from(parts) + 1];
        for &part in assignment {
            let count = starts.get_mut(usize::from(part) + 1);
            *count.ok_or(GraphError::Malformed("a vertex is in a part that is not below the number of parts"))? += 1;
        }
        for part in 0..usize::from(parts) {
            starts[part + 1] += starts[part];
        }
        let mut next = starts.clone();
        let mut old_of_new = vec![0; assignment.len()];
        let mut new_of_old = Vec::with_capacity(assignment.len());
        for (old, &part) in (0u32..).zip(assignment) {
            let new = &mut next[usize::from(part)];
            old_of_new[*new as usize] = old;
            new_of_old.push(*new as u32);
            *new += 1;
        }
        Ok(Self { starts, old_of_new, new_of_old })
    }

    /// Part `i` owns the new ids `starts()[i]..starts()[i + 1]`.
    #[must_use]
    pub fn starts(&self) -> &[u64] {
        &self.starts
    }

    /// The old id of each new id.
    #[must_use]
    pub fn old_of_new(&self) -> &[u32] {
        &self.old_of_new
    }

    /// The new id of each old id.
    #[must_use]
    pub fn new_of_old(&self) -> &[u32] {
        &self.new_of_old
    }

    /// A per-vertex array in the order of new ids. `values` has one entry per vertex.
    #[must_use]
    pub fn rows<T: Clone>(&self, values: &[T]) -> Vec<T> {
        self.old_of_new.iter().map(|&old| values[old as usize].clone()).collect()
    }

    /// Renames the ends of edges in place.
    pub fn edges(&self, edges: &mut [(u32, u32)]) {
        for (a, b) in edges {
            *a = self.new_of_old[*a as usize];
            *b = self.new_of_old[*b as usize];
        }
    }

    /// The same graph under the new ids, neighbours ascending.
    ///
    /// # Errors
    /// [`GraphError::Malformed`] when the graph has another number of vertices.
    pub fn graph(&self, graph: &CsrGraph) -> Result<CsrGraph, GraphError> {
        if graph.vertices() != self.old_of_new.len() as u64 {
            return Err(GraphError::Malformed("the graph has another number of vertices than the assignment"));
        }
        let mut xadj = Vec::with_capacity(self.old_of_new.len() + 1);
        let mut adjncy = Vec::with_capacity(graph.adjncy().len());
        xadj.push(0);
        for &old in &self.old_of_new {
            let start = adjncy.len();
            adjncy.extend(graph.neighbours(old).iter().map(|&neighbour| self.new_of_old[neighbour as usize]));
            adjncy[start..].sort_unstable();
            xadj.push(adjncy.len() as u64);
        }
        CsrGraph::new(xadj, adjncy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn is_a_permutation_by_part(parts in 1u16..8, seeds in proptest::collection::vec(any::<u16>(), 0..100)) {
            let assignment: Vec<u16> = seeds.iter().map(|seed| seed % parts).collect();
            let relabelling = Relabelling::new(&assignment, parts).unwrap();
            for (old, &new) in relabelling.new_of_old().iter().enumerate() {
                prop_assert_eq!(relabelling.old_of_new()[new as usize] as usize, old);
                let part = usize::from(assignment[old]);
                let range = relabelling.starts()[part]..relabelling.starts()[part + 1];
                prop_assert!(range.contains(&u64::from(new)));
            }
            prop_assert!(relabelling.rows(&assignment).is_sorted());
        }

        #[test]
        fn the_graph_is_the_same(parts in 1u16..4, edges in proptest::collection::vec((0u32..20, 0u32..20), 0..60)) {
            let assignment: Vec<u16> = (0..20).map(|vertex: u16| vertex.wrapping_mul(7) % parts).collect();
            let relabelling = Relabelling::new(&assignment, parts).unwrap();
            let graph = CsrGraph::from_edges(20, &edges).unwrap();
            let renamed = relabelling.graph(&graph).unwrap();
            let mut expected: Vec<(u32, u32)> = graph.iter_edges().collect();
            relabelling.edges(&mut expected);
            let expected: BTreeSet<_> = expected.into_iter().map(|(a, b)| (a.min(b), a.max(b))).collect();
            for vertex in 0..20 { prop_assert!(renamed.neighbours(vertex).is_sorted()); }
            prop_assert_eq!(renamed.iter_edges().collect::<BTreeSet<_>>(), expected);
        }
    }

    #[test]
    fn refuses_an_unknown_part() {
        assert!(Relabelling::new(&[0, 2], 2).is_err());
    }
}
