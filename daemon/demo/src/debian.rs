//! Owns the Debian 12 package graph that is compiled into the program (`daemon/demo/assets/debian`): decoding it and
//! checking what was decoded. Must never read a file: a fresh clone and an installed program have it alike.

use std::collections::BTreeMap;
use std::io::Read;

use crate::error::DemoError;
use crate::graph::{Graph, Origin, build};
use rudder_dataset::npy::NpyHeader;

static PACKAGES: &[u8] = include_bytes!("../assets/debian/packages.tsv.gz");
static EDGES: &[u8] = include_bytes!("../assets/debian/edges.npy.gz");

/// Decodes the graph. Classes are numbered in the alphabetical order of the sections.
///
/// # Errors
/// The compiled-in files are not what the program expects.
pub(crate) fn load() -> Result<Graph, DemoError> {
    let text = String::from_utf8(inflate(PACKAGES, "packages.tsv.gz")?)
        .map_err(|_| DemoError::Asset { asset: "packages.tsv.gz", reason: "it is not UTF-8".to_owned() })?;
    let mut packages: Vec<(&str, &str)> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        packages.push(line.split_once('\t').ok_or_else(|| DemoError::Asset {
            asset: "packages.tsv.gz",
            reason: format!("line {} has no tab", number + 1),
        })?);
    }
    let mut sections: BTreeMap<&str, u16> = packages.iter().map(|&(_, section)| (section, 0)).collect();
    for (class, number) in sections.values_mut().zip(0..) {
        *class = number;
    }
    let labels = packages.iter().map(|(_, section)| sections[section]).collect();
    let edges = edges(packages.len())?;
    let adjacency =
        build(packages.len() as u32, |emit| edges.iter().for_each(|&[smaller, larger]| emit(smaller, larger)))?;
    Ok(Graph {
        adjacency,
        labels,
        classes: sections.len() as u16,
        origin: Origin::Names(packages.iter().map(|&(name, _)| name.to_owned()).collect()),
    })
}

/// The pairs of `edges.npy.gz`, each end below `vertices`.
fn edges(vertices: usize) -> Result<Vec<[u32; 2]>, DemoError> {
    let bad = |reason: &str| DemoError::Asset { asset: "edges.npy.gz", reason: reason.to_owned() };
    let bytes = inflate(EDGES, "edges.npy.gz")?;
    let mut data = bytes.as_slice();
    NpyHeader::read(&mut data).map_err(|error| bad(&error.to_string()))?;
    let word = |bytes: &[u8]| bytes.iter().rev().fold(0_u32, |word, &byte| (word << 8) | u32::from(byte));
    let pairs: Vec<[u32; 2]> = data.chunks_exact(8).map(|pair| [word(&pair[..4]), word(&pair[4..])]).collect();
    if data.len() % 8 != 0 || pairs.iter().flatten().any(|&end| end as usize >= vertices) {
        return Err(bad("its edges do not fit the packages"));
    }
    Ok(pairs)
}

fn inflate(asset: &[u8], name: &'static str) -> Result<Vec<u8>, DemoError> {
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(asset)
        .read_to_end(&mut bytes)
        .map_err(|source| DemoError::Asset { asset: name, reason: source.to_string() })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The counts of the source (`daemon/demo/assets/debian/README.md`).
    #[test]
    fn counts_equal_those_of_the_source() {
        let graph = load().unwrap();
        let adjacency = &graph.adjacency;
        assert_eq!((adjacency.vertices(), adjacency.edges(), graph.classes), (63_436, 294_681, 58));
        let degrees: Vec<usize> = (0..63_436).map(|v| adjacency.neighbours(v).len()).collect();
        assert_eq!(degrees.iter().filter(|&&degree| degree == 0).count(), 3_100);
        let hub = (0..63_436).max_by_key(|&v| degrees[v]).unwrap();
        let Origin::Names(names) = &graph.origin else { panic!("the Debian graph has names") };
        assert_eq!((names[hub].as_str(), degrees[hub]), ("libc6", 21_814));
    }

    #[test]
    fn labels_are_sections_in_alphabetical_order() {
        let graph = load().unwrap();
        let Origin::Names(names) = &graph.origin else { panic!("the Debian graph has names") };
        let label = |name: &str| graph.labels[names.iter().position(|other| other == name).unwrap()];
        assert_eq!(label("0ad"), label("0ad-data"));
        assert!(label("0install") < label("0ad"), "admin comes before games");
        // 6,703 packages are in section libs, the largest.
        assert!((graph.largest_class_share() - 6_703.0 / 63_436.0).abs() < 1e-12);
    }
}
