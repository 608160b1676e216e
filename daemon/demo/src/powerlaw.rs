//! Owns the generated graph: power-law degrees, planted communities, noisy labels. A degree-corrected block model
//! (Karrer, Newman 2011) drawn edge by edge. Must never hold a list of edges: memory is the finished graph and no more,
//! so that millions of vertices fit.

use crate::error::DemoError;
use crate::graph::{Graph, Origin, build};
use crate::rng::{Rng, mix};

/// Edges drawn per vertex; loops and repeats are dropped afterwards.
const EDGES_PER_VERTEX: u64 = 10;
/// Number of communities, which is the number of classes.
const COMMUNITIES: u16 = 32;
/// Share of edges whose two ends are drawn from the same community.
const INSIDE: f64 = 0.85;
/// Share of vertices whose label is not their community but any class.
const LABEL_NOISE: f64 = 0.1;
/// Added to each rank: the greater, the smaller the hubs.
const RANK_OFFSET: f64 = 3.0;

/// Where each community's vertices begin; they are contiguous. Sizes fall as 1/(1 + c/20), so the largest of 32 holds
/// 5%.
struct Communities {
    starts: Vec<u32>,
}

impl Communities {
    fn new(vertices: u32) -> Self {
        let shares: Vec<f64> = (0..COMMUNITIES).map(|c| 1.0 / (1.0 + f64::from(c) / 20.0)).collect();
        let total: f64 = shares.iter().sum();
        let mut sum = 0.0;
        let mut starts = vec![0];
        for share in shares {
            sum += share;
            starts.push((f64::from(vertices) * sum / total).round() as u32);
        }
        Self { starts }
    }

    fn of(&self, vertex: u32) -> u16 {
        (self.starts.partition_point(|&start| start <= vertex) - 1) as u16
    }

    /// Draws a vertex of community `community` with weight `(rank + offset)^(-2/3)`, which gives degrees a power law
    /// with exponent 1 + 3/2 = 2.5. The inverse of the cumulated weight is then a cube: no powers of fractions to
    /// compute.
    #[inline]
    fn draw(&self, community: u16, rng: &mut Rng) -> u32 {
        let start = self.starts[usize::from(community)];
        let size = self.starts[usize::from(community) + 1] - start;
        let low = RANK_OFFSET.cbrt();
        let high = (f64::from(size) + RANK_OFFSET).cbrt();
        let root = low + rng.unit() * (high - low);
        let rank = root * root * root - RANK_OFFSET;
        start + (rank.max(0.0) as u32).min(size - 1)
    }
}

/// Generates the graph of `vertices` vertices. The same arguments give the same graph.
///
/// # Errors
/// As [`build`].
pub(crate) fn generate(vertices: u32, seed: u64) -> Result<Graph, DemoError> {
    let communities = Communities::new(vertices);
    let of: Vec<u16> = (0..vertices).map(|vertex| communities.of(vertex)).collect();
    let adjacency = build(vertices, |emit| {
        let mut rng = Rng::new(&[seed, 0]);
        for _ in 0..u64::from(vertices) * EDGES_PER_VERTEX {
            // A community in proportion to its size: that of a vertex drawn evenly.
            let first = of[rng.below(u64::from(vertices)) as usize];
            let second = if rng.unit() < INSIDE { first } else { of[rng.below(u64::from(vertices)) as usize] };
            emit(communities.draw(first, &mut rng), communities.draw(second, &mut rng));
        }
    })?;
    let labels = of.iter().zip(0_u64..).map(|(&community, vertex)| label(community, vertex, seed)).collect();
    Ok(Graph { adjacency, labels, classes: COMMUNITIES, origin: Origin::Communities { of, seed } })
}

fn label(community: u16, vertex: u64, seed: u64) -> u16 {
    let mut rng = Rng::new(&[seed, 1, mix(vertex)]);
    if rng.unit() < LABEL_NOISE { rng.below(u64::from(COMMUNITIES)) as u16 } else { community }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_graph_and_another_seed_another() {
        let (one, two, other) = (generate(5_000, 1).unwrap(), generate(5_000, 1).unwrap(), generate(5_000, 2).unwrap());
        assert_eq!(one.adjacency.adjncy(), two.adjacency.adjncy());
        assert_eq!(one.adjacency.xadj(), two.adjacency.xadj());
        assert_eq!(one.labels, two.labels);
        assert_ne!(one.adjacency.adjncy(), other.adjacency.adjncy());
    }

    #[test]
    fn degrees_follow_a_power_law() {
        let graph = generate(50_000, 1).unwrap().adjacency;
        let mut degrees: Vec<usize> = (0..50_000).map(|v| graph.neighbours(v).len()).collect();
        degrees.sort_unstable_by(|a, b| b.cmp(a));
        let mean = degrees.iter().sum::<usize>() as f64 / 50_000.0;
        assert!((16.0..20.0).contains(&mean), "mean {mean}");
        assert!(degrees[0] as f64 > 20.0 * mean, "greatest {}", degrees[0]);
        let top: usize = degrees[..500].iter().sum();
        let share = top as f64 / degrees.iter().sum::<usize>() as f64;
        assert!(share > 0.1, "the top percent of the vertices holds {share} of the edge ends");
        // Hill's estimator of the tail exponent over the upper tenth: 2.5 was asked for.
        let tail = &degrees[..5_000];
        let least = tail[tail.len() - 1] as f64;
        let hill = 1.0 + tail.len() as f64 / tail.iter().map(|&d| (d as f64 / least).ln()).sum::<f64>();
        assert!((2.2..2.8).contains(&hill), "exponent {hill}");
    }

    #[test]
    fn most_edges_stay_inside_a_community_and_most_labels_tell_it() {
        let graph = generate(20_000, 1).unwrap();
        let Origin::Communities { of, .. } = &graph.origin else { panic!("a generated graph has communities") };
        let (mut inside, mut all) = (0, 0);
        for vertex in 0..20_000 {
            for &neighbour in graph.adjacency.neighbours(vertex) {
                inside += usize::from(of[vertex as usize] == of[neighbour as usize]);
                all += 1;
            }
        }
        let share = inside as f64 / all as f64;
        assert!((0.75..0.95).contains(&share), "{share}");
        let told = graph.labels.iter().zip(of).filter(|(label, community)| label == community).count();
        assert!((17_500..18_800).contains(&told), "{told}");
        assert!(graph.largest_class_share() < 0.08);
    }
}
