//! Owns the content of feature rows: a function of the vertex alone, so that a row can be computed again at any time
//! and compared with what was received. Must never depend on the partition, the node or the order of calls.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::graph::Origin;
use crate::rng::{Rng, mix};

/// Lengths in bytes of the n-grams taken from a package name with `^` before it and `$` behind.
const NGRAMS: std::ops::RangeInclusive<usize> = 2..=5;

/// Distance of two class centroids in standard deviations of the noise, whatever the width: too small to classify a
/// vertex by its own row, large enough that the mean of its neighbourhood tells.
const SEPARATION: f32 = 2.0;

/// Hash of a row's bytes; the truth that received rows are compared with.
#[inline]
pub(crate) fn row_hash(row: &[u8]) -> u64 {
    xxh3_64(row)
}

/// Computes rows of `dim` floats.
pub(crate) struct Features<'a> {
    origin: &'a Origin,
    dim: usize,
}

impl<'a> Features<'a> {
    pub(crate) fn new(origin: &'a Origin, dim: usize) -> Self {
        Self { origin, dim }
    }

    /// Writes the row of `vertex` (numbered as in the graph) into `row`, which holds `dim` floats.
    pub(crate) fn fill(&self, vertex: u32, row: &mut [f32]) {
        debug_assert_eq!(row.len(), self.dim);
        match self.origin {
            Origin::Names(names) => hash_ngrams(&names[vertex as usize], row),
            Origin::Communities { of, seed } => noisy_centroid(of[vertex as usize], vertex, *seed, row),
        }
    }
}

/// Feature hashing (Weinberger et al. 2009): each n-gram adds +1 or -1 to the bucket that its hash names; the row is
/// then scaled to length 1.
fn hash_ngrams(name: &str, row: &mut [f32]) {
    row.fill(0.0);
    let marked = format!("^{name}$");
    for length in NGRAMS {
        for ngram in marked.as_bytes().windows(length) {
            let hash = xxh3_64_with_seed(ngram, length as u64);
            let bucket = (hash >> 1) % row.len() as u64;
            row[bucket as usize] += if hash & 1 == 0 { 1.0 } else { -1.0 };
        }
    }
    let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
    if length > 0.0 {
        row.iter_mut().for_each(|x| *x /= length);
    }
}

/// The centroid of the community (a sign per column) plus noise of variance 1.
fn noisy_centroid(community: u16, vertex: u32, seed: u64, row: &mut [f32]) {
    // Two centroids of random signs differ in half of the columns, by 2·scale in each.
    let scale = SEPARATION / (2.0 * row.len() as f32).sqrt();
    let mut signs = Rng::new(&[seed, 2, u64::from(community)]);
    let mut noise = Rng::new(&[seed, 3, mix(u64::from(vertex))]);
    for block in row.chunks_mut(64) {
        let mut sign_bits = signs.next();
        for pair in block.chunks_mut(2) {
            let mut bits = noise.next();
            for x in pair {
                // The sum of two uniform 16-bit numbers is a triangle of variance 2/12 on 0..2: cheap, and bell enough.
                let triangle = ((bits & 0xFFFF) + ((bits >> 16) & 0xFFFF)) as f32 / 65_536.0 - 1.0;
                let sign = if sign_bits & 1 == 0 { scale } else { -scale };
                *x = sign + triangle * 6.0_f32.sqrt();
                bits >>= 32;
                sign_bits >>= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{debian, powerlaw};

    fn row(features: &Features<'_>, vertex: u32) -> Vec<f32> {
        let mut row = vec![f32::NAN; features.dim];
        features.fill(vertex, &mut row);
        row
    }

    fn dot(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(x, y)| x * y).sum()
    }

    #[test]
    fn names_that_look_alike_have_rows_that_look_alike() {
        let graph = debian::load().unwrap();
        let Origin::Names(names) = &graph.origin else { panic!("the Debian graph has names") };
        let features = Features::new(&graph.origin, 128);
        let of = |name: &str| row(&features, names.iter().position(|other| other == name).unwrap() as u32);
        let (numpy, scipy, libc) = (of("python3-numpy"), of("python3-scipy"), of("libc6"));
        assert!((dot(&numpy, &numpy) - 1.0).abs() < 1e-5);
        assert!(dot(&numpy, &scipy) > 0.4 && dot(&numpy, &libc) < 0.3);
    }

    #[test]
    fn a_row_depends_on_its_vertex_only() {
        let graph = powerlaw::generate(2_000, 1).unwrap();
        for dim in [1, 3, 64, 100, 128] {
            let features = Features::new(&graph.origin, dim);
            let before = row(&features, 77);
            let _ = row(&features, 78);
            assert_eq!(before, row(&features, 77));
            assert_ne!(before, row(&features, 78));
            assert!(before.iter().all(|x| x.is_finite()));
        }
    }

    #[test]
    fn rows_of_one_community_are_nearer_and_the_noise_has_variance_one() {
        let graph = powerlaw::generate(20_000, 1).unwrap();
        let Origin::Communities { of, .. } = &graph.origin else { panic!("a generated graph has communities") };
        let features = Features::new(&graph.origin, 128);
        let members: Vec<Vec<f32>> = (0..20_000).filter(|&v| of[v as usize] == 0).map(|v| row(&features, v)).collect();
        let mean: Vec<f32> =
            (0..128).map(|j| members.iter().map(|row| row[j]).sum::<f32>() / members.len() as f32).collect();
        let scale = SEPARATION / 256.0_f32.sqrt();
        assert!((dot(&mean, &mean) / (128.0 * scale * scale) - 1.0).abs() < 0.15);
        let variance = members.iter().flatten().zip(mean.iter().cycle()).map(|(x, m)| (x - m) * (x - m)).sum::<f32>()
            / (members.len() * 128) as f32;
        assert!((0.9..1.1).contains(&variance), "{variance}");
    }
}
