//! Owns neighbour sampling: two layers, without replacement, as blocks. Must never draw from anything but the seed it
//! is given: the minibatches of a run are the same under every policy.

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

use crate::rng::Rng;

/// Fan-out per layer from the input side, as DGL writes it: 25 neighbours of each seed, 10 of each of those.
pub(crate) const FANOUTS: [usize; 2] = [10, 25];

/// The graph as the sampler sees it: sorted neighbours of `v` in `adjncy[xadj[v] as usize..xadj[v + 1] as usize]`.
#[derive(Clone, Copy)]
pub(crate) struct GraphView<'a> {
    pub(crate) xadj: &'a [u64],
    pub(crate) adjncy: &'a [u32],
}

impl<'a> GraphView<'a> {
    fn neighbours(self, vertex: u32) -> &'a [u32] {
        &self.adjncy[self.xadj[vertex as usize] as usize..self.xadj[vertex as usize + 1] as usize]
    }
}

/// One layer of a minibatch: which sources each target takes its neighbours' mean from. The first `targets()` sources
/// are the targets themselves, in order.
#[derive(Default)]
pub(crate) struct Block {
    /// One offset into `indices` per target and one more.
    offsets: Vec<u32>,
    /// Positions in the list of sources.
    indices: Vec<u32>,
}

impl Block {
    /// Number of vertices that this layer computes.
    pub(crate) fn targets(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// Sources of target `target`.
    pub(crate) fn sources(&self, target: usize) -> &[u32] {
        &self.indices[self.offsets[target] as usize..self.offsets[target + 1] as usize]
    }
}

/// A sampled minibatch. Buffers are reused from one to the next.
#[derive(Default)]
pub(crate) struct Minibatch {
    /// Every vertex whose features are needed, each once, the seeds first.
    pub(crate) inputs: Vec<u64>,
    /// From the inputs to the seeds' neighbourhood: layer 1.
    pub(crate) outer: Block,
    /// From the seeds' neighbourhood to the seeds: layer 2.
    pub(crate) inner: Block,
}

/// Samples minibatches of one graph.
pub(crate) struct Sampler<'a> {
    graph: GraphView<'a>,
    /// Position in `inputs` of each vertex of the minibatch in hand.
    position: HashMap<u64, u32>,
    picked: Vec<u32>,
}

impl<'a> Sampler<'a> {
    pub(crate) fn new(graph: GraphView<'a>) -> Self {
        Self { graph, position: HashMap::new(), picked: Vec::new() }
    }

    /// Samples the neighbourhood of `seeds` (distinct) into `batch`.
    pub(crate) fn sample(&mut self, seeds: &[u32], mut rng: Rng, batch: &mut Minibatch) {
        self.position.clear();
        batch.inputs.clear();
        for (&seed, place) in seeds.iter().zip(0..) {
            self.position.insert(u64::from(seed), place);
            batch.inputs.push(u64::from(seed));
        }
        let [outer, inner] = FANOUTS;
        self.expand(inner, &mut rng, &mut batch.inputs, &mut batch.inner);
        self.expand(outer, &mut rng, &mut batch.inputs, &mut batch.outer);
    }

    /// Makes every vertex of `vertices` a target and appends the new vertices among their sampled neighbours.
    fn expand(&mut self, fanout: usize, rng: &mut Rng, vertices: &mut Vec<u64>, block: &mut Block) {
        block.offsets.clear();
        block.indices.clear();
        block.offsets.push(0);
        for target in 0..vertices.len() {
            let neighbours = self.graph.neighbours(vertices[target] as u32);
            choose(neighbours.len(), fanout, rng, &mut self.picked);
            for &pick in &self.picked {
                let vertex = u64::from(neighbours[pick as usize]);
                let place = match self.position.entry(vertex) {
                    Entry::Occupied(known) => *known.get(),
                    Entry::Vacant(new) => {
                        vertices.push(vertex);
                        *new.insert(vertices.len() as u32 - 1)
                    }
                };
                block.indices.push(place);
            }
            block.offsets.push(block.indices.len() as u32);
        }
    }
}

/// Chooses `min(count, from)` distinct numbers below `from` into `picked`: all of them, or by Floyd's algorithm
/// (Bentley, Floyd 1987), whose search is linear because fan-outs are small.
fn choose(from: usize, count: usize, rng: &mut Rng, picked: &mut Vec<u32>) {
    picked.clear();
    if from <= count {
        picked.extend(0..from as u32);
        return;
    }
    for last in (from - count) as u32..from as u32 {
        let pick = rng.below(u64::from(last) + 1) as u32;
        picked.push(if picked.contains(&pick) { last } else { pick });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::debian;
    use rudder_dataset::CsrGraph;
    use std::collections::HashSet;

    fn view(adjacency: &CsrGraph) -> GraphView<'_> {
        GraphView { xadj: adjacency.xadj(), adjncy: adjacency.adjncy() }
    }

    /// Checks what must hold of every block: distinct existing neighbours, up to the fan-out.
    fn check(block: &Block, inputs: &[u64], graph: &CsrGraph, fanout: usize) {
        for target in 0..block.targets() {
            let neighbours = graph.neighbours(inputs[target] as u32);
            let sources = block.sources(target);
            assert_eq!(sources.len(), neighbours.len().min(fanout));
            assert_eq!(sources.iter().collect::<HashSet<_>>().len(), sources.len(), "without replacement");
            for &source in sources {
                assert!(neighbours.binary_search(&(inputs[source as usize] as u32)).is_ok());
            }
        }
    }

    #[test]
    fn blocks_hold_distinct_neighbours_up_to_the_fan_out() {
        let graph = debian::load().unwrap().adjacency;
        let mut sampler = Sampler::new(view(&graph));
        let mut batch = Minibatch::default();
        for round in 0..20 {
            let mut seeds: Vec<u32> = (0..64).map(|i| i * 991 + round).collect();
            Rng::new(&[u64::from(round)]).shuffle(&mut seeds);
            sampler.sample(&seeds, Rng::new(&[1, u64::from(round)]), &mut batch);
            assert_eq!(batch.inner.targets(), seeds.len());
            assert!(batch.inputs.iter().zip(&seeds).all(|(&input, &seed)| input == u64::from(seed)));
            assert_eq!(batch.inputs.iter().collect::<HashSet<_>>().len(), batch.inputs.len(), "inputs are unique");
            check(&batch.inner, &batch.inputs, &graph, FANOUTS[1]);
            check(&batch.outer, &batch.inputs, &graph, FANOUTS[0]);
            assert!(batch.outer.targets() <= batch.inputs.len());
            let used = batch.inner.indices.iter().max().map_or(0, |&last| last as usize + 1);
            assert_eq!(batch.outer.targets(), used.max(seeds.len()), "layer 1 computes just what layer 2 reads");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_minibatch() {
        let graph = debian::load().unwrap().adjacency;
        let sample = |seed| {
            let mut batch = Minibatch::default();
            Sampler::new(view(&graph)).sample(&[5, 17, 99, 4_000], Rng::new(&[seed]), &mut batch);
            (batch.inputs, batch.inner.indices, batch.outer.indices)
        };
        assert_eq!(sample(1), sample(1));
        assert_ne!(sample(1), sample(2));
    }

    #[test]
    fn every_neighbour_is_as_likely_as_any_other() {
        let mut counts = [0_u32; 100];
        let mut rng = Rng::new(&[9]);
        let mut picked = Vec::new();
        for _ in 0..40_000 {
            choose(100, 25, &mut rng, &mut picked);
            picked.iter().for_each(|&pick| counts[pick as usize] += 1);
        }
        // 10,000 expected each, standard deviation 87.
        assert!(counts.iter().all(|&count| (9_560..10_440).contains(&count)), "{counts:?}");
    }
}
