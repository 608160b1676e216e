//! Generates traces of several kinds by sampling neighbourhoods of generated graphs, so that no policy is judged by one
//! graph alone. The same arguments give the same trace.

use crate::replay::Trace;
use fastrand::Rng;

/// Parts of every generated graph; the trace is that of the first.
const PARTS: u32 = 4;

/// How the edges of a generated graph are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Shape {
    /// Ends drawn in proportion to a power law of this exponent of the weights; four of five edges stay in a community
    /// of 200 vertices.
    Communities { exponent: f64 },
    /// Every vertex has its 12 nearest on a ring, of which one in ten edges goes anywhere.
    SmallWorld,
}

/// What to generate.
#[derive(Debug, Clone, Copy)]
pub(super) struct Recipe {
    pub shape: Shape,
    pub vertices: u32,
    /// Share of the part's vertices that are seeds.
    pub seeds: f64,
    pub batch: usize,
    pub fanouts: [usize; 2],
    pub epochs: usize,
    /// Epoch from which other vertices are seeds.
    pub shift_at: Option<usize>,
    pub seed: u64,
}

struct Graph {
    neighbours: Vec<Vec<u32>>,
}

fn community_graph(vertices: u32, exponent: f64, random: &mut Rng) -> Graph {
    const COMMUNITY: u32 = 200;
    // Inverse transform of a power law, cut off at a fiftieth of the vertices.
    let cumulative: Vec<f64> = (0..vertices)
        .scan(0.0, |sum, _| {
            *sum += (1.0 - random.f64()).powf(-1.0 / (exponent - 1.0)).min(f64::from(vertices) / 50.0);
            Some(*sum)
        })
        .collect();
    let pick = |low: u32, high: u32, random: &mut Rng| {
        let from = if low == 0 { 0.0 } else { cumulative[low as usize - 1] };
        let at = from + random.f64() * (cumulative[high as usize - 1] - from);
        (low + cumulative[low as usize..high as usize].partition_point(|&sum| sum < at) as u32).min(high - 1)
    };
    let mut neighbours = vec![Vec::new(); vertices as usize];
    for _ in 0..u64::from(vertices) * 8 {
        let a = pick(0, vertices, random);
        let first = a / COMMUNITY * COMMUNITY;
        let (low, high) = if random.u8(..) < 205 { (first, (first + COMMUNITY).min(vertices)) } else { (0, vertices) };
        let b = pick(low, high, random);
        if a != b {
            neighbours[a as usize].push(b);
            neighbours[b as usize].push(a);
        }
    }
    Graph { neighbours }
}

fn small_world(vertices: u32, random: &mut Rng) -> Graph {
    let mut neighbours = vec![Vec::new(); vertices as usize];
    for a in 0..vertices {
        for step in 1..=6 {
            let b = if random.u8(..) < 26 { random.u32(0..vertices) } else { (a + step) % vertices };
            if a != b {
                neighbours[a as usize].push(b);
                neighbours[b as usize].push(a);
            }
        }
    }
    Graph { neighbours }
}

/// Appends up to `fanout` neighbours of each vertex of `frontier` to it, but those seen in this minibatch.
fn expand(graph: &Graph, fanout: usize, frontier: &mut Vec<u32>, seen: &mut [u32], stamp: u32, random: &mut Rng) {
    for at in 0..frontier.len() {
        let neighbours = &graph.neighbours[frontier[at] as usize];
        let picks = random.choose_multiple(neighbours.iter().copied(), fanout);
        for vertex in picks {
            if std::mem::replace(&mut seen[vertex as usize], stamp) != stamp {
                frontier.push(vertex);
            }
        }
    }
}

/// Generates a trace.
pub(super) fn generate(recipe: Recipe) -> Trace {
    let mut random = Rng::with_seed(recipe.seed);
    let graph = match recipe.shape {
        Shape::Communities { exponent } => community_graph(recipe.vertices, exponent, &mut random),
        Shape::SmallWorld => small_world(recipe.vertices, &mut random),
    };
    let local = recipe.vertices / PARTS;
    let mut degree = vec![0u32; recipe.vertices as usize];
    (0..local).for_each(|a| graph.neighbours[a as usize].iter().for_each(|&b| degree[b as usize] += 1));
    let degree = (local..recipe.vertices).map(|id| (id, degree[id as usize] as f32)).filter(|pair| pair.1 > 0.0);
    let mut vertices: Vec<u32> = (0..local).collect();
    random.shuffle(&mut vertices);
    let count = (f64::from(local) * recipe.seeds) as usize;
    let mut seeds = vertices[..count].to_vec();
    let mut seen = vec![0; recipe.vertices as usize];
    let (mut minibatches, mut stamp) = (Vec::new(), 0);
    for epoch in 0..recipe.epochs {
        if recipe.shift_at == Some(epoch) {
            seeds = vertices[vertices.len() - count..].to_vec();
        }
        random.shuffle(&mut seeds);
        for batch in seeds.chunks(recipe.batch) {
            stamp += 1;
            let mut frontier = batch.to_vec();
            batch.iter().for_each(|&seed| seen[seed as usize] = stamp);
            let [outer, inner] = recipe.fanouts;
            expand(&graph, inner, &mut frontier, &mut seen, stamp, &mut random);
            expand(&graph, outer, &mut frontier, &mut seen, stamp, &mut random);
            frontier.retain(|&vertex| vertex >= local);
            minibatches.push(frontier);
        }
    }
    let per_epoch = count.div_ceil(recipe.batch) as u64;
    Trace::new(u64::from(recipe.vertices), per_epoch, &minibatches, degree.collect(), serde_json::Map::new()).unwrap()
}
