//! Owns the preparation of a run folder: the graph is loaded, partitioned, relabelled and written as a dataset; labels,
//! splits and the hash of every vertex's true row are written beside it. Must never leave anything to the policies to
//! decide: all of them run on these files.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rudder_client::DType;

use crate::choice::GraphChoice;
use crate::error::DemoError;
use crate::features::{Features, row_hash};
use crate::graph::{Graph, Origin};
use crate::mapped::{self, Mapped};
use crate::report::GraphReport;
use crate::rng::{Rng, mix};
use crate::watch::Watch;
use rudder_dataset::{FileManifest, Manifest, RowForm};
use rudder_import::{Existing, GraphDataset, GraphSummary, TableSource, write_graph_dataset};

/// Name of the feature table.
pub(crate) const TABLE: &str = "feat";
/// Name of the only vertex type.
const VERTEX_TYPE: &str = "vertex";
/// Share of the vertices that are trained on, and the most of them: ten percent of the Debian graph; large graphs train
/// on a smaller share, as ogbn-papers100M does (1 %).
const TRAIN: (f64, f64) = (0.1, 20_000.0);
/// The same for the vertices that the accuracy is measured on.
const TEST: (f64, f64) = (0.1, 10_000.0);
/// First word of the random streams that deal vertices to splits.
const SPLIT_STREAM: u64 = 10;
/// Resident bytes per vertex and per neighbour entry while METIS runs: 2.8 GB were measured for 2 million vertices with
/// 39.7 million entries.
const METIS_BYTES: (u64, u64) = (500, 50);
/// Neighbour entries per vertex that are reckoned with before the graph exists.
const ENTRIES_PER_VERTEX: u64 = 20;

/// What a vertex is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Split {
    None = 0,
    Train = 1,
    Test = 2,
}

/// The arrays that trainers map.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub(crate) struct GraphFiles {
    pub(crate) xadj: PathBuf,
    pub(crate) adjncy: PathBuf,
    pub(crate) labels: PathBuf,
    pub(crate) splits: PathBuf,
    pub(crate) truth: PathBuf,
}

/// A prepared run folder.
pub(crate) struct Prepared {
    pub(crate) dataset: PathBuf,
    pub(crate) files: GraphFiles,
    pub(crate) report: GraphReport,
    /// First vertex of each partition, and the number of vertices.
    pub(crate) starts: Vec<u32>,
    /// Vertices of each partition that are trained on.
    pub(crate) train_counts: Vec<usize>,
    pub(crate) classes: usize,
    pub(crate) largest_class_share: f64,
}

/// What to prepare.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Recipe {
    pub(crate) graph: GraphChoice,
    pub(crate) nodes: u16,
    pub(crate) dim: u32,
    pub(crate) seed: u64,
}

/// Prepares `folder`; `bar` shows how far it is.
///
/// # Errors
/// Not enough memory or disk, or a part of the preparation fails.
pub(crate) fn prepare(folder: &Path, recipe: Recipe, watch: &dyn Watch) -> Result<Prepared, DemoError> {
    if let GraphChoice::PowerLaw(vertices) = recipe.graph {
        check_room(folder, u64::from(vertices), recipe.dim)?;
    }
    watch.message(format!("loading the graph {}", recipe.graph));
    let graph = recipe.graph.load(recipe.seed)?;
    watch.message(format!("partitioning {} vertices by METIS", graph.adjacency.vertices()));
    let truth: Vec<AtomicU64> = (0..graph.adjacency.vertices()).map(|_| AtomicU64::new(0)).collect();
    let dataset = folder.join("dataset");
    let summary = write_dataset(&dataset, &graph, &truth, recipe, watch)?;
    let arrays = Arrays::write(folder, &dataset, &graph, &truth, recipe.seed)?;
    let starts: Vec<u32> = summary.starts.iter().map(|&start| start as u32).collect();
    let of_part = |part: &[u32]| arrays.splits[part[0] as usize..part[1] as usize].iter();
    Ok(Prepared {
        dataset,
        train_counts: starts
            .windows(2)
            .map(|part| of_part(part).filter(|&&s| s == Split::Train as u8).count())
            .collect(),
        files: arrays.files,
        report: GraphReport {
            vertices: summary.vertices,
            edges: summary.edges,
            partitions: summary.partitions,
            edge_cut: summary.edge_cut,
        },
        starts,
        classes: usize::from(graph.classes),
        largest_class_share: graph.largest_class_share(),
    })
}

fn write_dataset(
    dir: &Path,
    graph: &Graph,
    truth: &[AtomicU64],
    recipe: Recipe,
    watch: &dyn Watch,
) -> Result<GraphSummary, DemoError> {
    let features = Features::new(&graph.origin, recipe.dim as usize);
    let fill = |vertex: u64, row: &mut [u8]| {
        let mut floats = vec![0.0; recipe.dim as usize];
        features.fill(vertex as u32, &mut floats);
        row.copy_from_slice(bytemuck::cast_slice(&floats));
        truth[vertex as usize].store(row_hash(row), Ordering::Relaxed);
        Ok(())
    };
    let source = GraphDataset {
        name: recipe.graph.to_string().replace(':', "-"),
        vertex_type: VERTEX_TYPE.to_owned(),
        graph: &graph.adjacency,
        names: match &graph.origin {
            Origin::Names(names) => Some(names),
            Origin::Communities { .. } => None,
        },
        tables: vec![TableSource {
            name: TABLE.to_owned(),
            form: RowForm::new(DType::F32, &[u64::from(recipe.dim)])
                .map_err(DemoError::prepare("write the dataset"))?,
            classes: None,
            fill: Box::new(fill),
        }],
        parts: recipe.nodes,
        seed: (recipe.seed & 0xFFFF) as i32,
        keep_ids: false,
    };
    let progress = |done: u64, total: u64| watch.message(format!("writing features: {} %", 100 * done / total.max(1)));
    write_graph_dataset(dir, &source, Existing::Refuse, &progress).map_err(DemoError::prepare("write the dataset"))
}

/// The arrays by new id.
struct Arrays {
    files: GraphFiles,
    splits: Vec<u8>,
}

impl Arrays {
    fn write(folder: &Path, dataset: &Path, graph: &Graph, truth: &[AtomicU64], seed: u64) -> Result<Self, DemoError> {
        let manifest = Manifest::load(dataset).map_err(DemoError::prepare("read the dataset back"))?;
        let path_of = |file: Option<&FileManifest>| {
            let absent = || DemoError::prepare("find the graph in the dataset")("it is not there");
            file.map(|file| dataset.join(&file.path)).ok_or_else(absent)
        };
        let kept = manifest.graph.as_ref();
        let vertex_type = manifest.vertex_type(VERTEX_TYPE);
        let original = match vertex_type.and_then(|vertex_type| vertex_type.original_ids.as_ref()) {
            Some(file) => Mapped::<u64>::open(&dataset.join(&file.path))?.to_vec(),
            // One part: the ids are those of the graph.
            None => (0..vertex_type.map_or(0, |vertex_type| vertex_type.rows)).collect(),
        };
        let files = GraphFiles {
            xadj: path_of(kept.and_then(|graph| graph.indptr.as_ref()))?,
            adjncy: path_of(kept.and_then(|graph| graph.indices.as_ref()))?,
            labels: folder.join("labels.npy"),
            splits: folder.join("splits.npy"),
            truth: folder.join("truth.npy"),
        };
        let splits: Vec<u8> = original.iter().map(|&old| split(old, original.len(), seed) as u8).collect();
        mapped::write(&files.labels, original.iter().map(|&old| graph.labels[old as usize]))?;
        mapped::write(&files.splits, splits.iter().copied())?;
        mapped::write(&files.truth, original.iter().map(|&old| truth[old as usize].load(Ordering::Relaxed)))?;
        Ok(Self { files, splits })
    }
}

/// Deals the vertex with original id `old`, whatever the partition.
fn split(old: u64, vertices: usize, seed: u64) -> Split {
    let share = |(share, most): (f64, f64)| share.min(most / vertices as f64);
    let drawn = Rng::new(&[seed, SPLIT_STREAM, mix(old)]).unit();
    if drawn < share(TRAIN) {
        Split::Train
    } else if drawn < share(TRAIN) + share(TEST) {
        Split::Test
    } else {
        Split::None
    }
}

/// Refuses before the work begins what cannot end well.
fn check_room(folder: &Path, vertices: u64, dim: u32) -> Result<(), DemoError> {
    let need = format!("a graph of {vertices} vertices with {dim} floats each");
    let mib = |bytes: u64| bytes >> 20;
    let memory = vertices * (METIS_BYTES.0 + ENTRIES_PER_VERTEX * METIS_BYTES.1);
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let free = info
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix("kB")?.trim().parse().ok());
    let free: u64 = free.map_or(u64::MAX, |kib: u64| kib << 10);
    if memory > free {
        let (needed_mib, available_mib) = (mib(memory), mib(free));
        let remedy = "choose fewer vertices";
        return Err(DemoError::Room { need, of: "memory".to_owned(), needed_mib, available_mib, remedy });
    }
    let disk = vertices * (u64::from(dim) * 4 + ENTRIES_PER_VERTEX * 4 + 40);
    let stat = rustix::fs::statvfs(folder).map_err(|error| DemoError::file("examine", folder)(error.into()))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if disk > free {
        return Err(DemoError::Room {
            need,
            of: format!("disk in {}", folder.display()),
            needed_mib: mib(disk),
            available_mib: mib(free),
            remedy: "choose fewer vertices or floats, or set TMPDIR to a larger disk",
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::Quiet;

    #[test]
    fn truth_labels_and_rows_agree_after_relabelling() {
        let folder = tempfile::tempdir().unwrap();
        let recipe = Recipe { graph: GraphChoice::PowerLaw(2_000), nodes: 3, dim: 5, seed: 1 };
        let prepared = prepare(folder.path(), recipe, &Quiet).unwrap();
        assert_eq!((prepared.report.vertices, prepared.report.partitions), (2_000, 3));
        assert_eq!((prepared.starts[0], prepared.starts[3]), (0, 2_000));
        let truth = Mapped::<u64>::open(&prepared.files.truth).unwrap();
        let labels = Mapped::<u16>::open(&prepared.files.labels).unwrap();
        let original = Mapped::<u64>::open(&prepared.dataset.join("ids").join(format!("{VERTEX_TYPE}.npy"))).unwrap();
        let graph = recipe.graph.load(recipe.seed).unwrap();
        let features = Features::new(&graph.origin, 5);
        let mut row = [0.0; 5];
        for part in 0..3_u16 {
            let verify = rudder_dataset::Verify::Full;
            let dataset =
                rudder_dataset::Dataset::open(&prepared.dataset, rudder_dataset::Part(part), verify, &|_, _| {})
                    .unwrap();
            let shard = &dataset.table(TABLE).unwrap().shard;
            for (local, id) in (prepared.starts[part as usize]..prepared.starts[part as usize + 1]).enumerate() {
                let old = original[id as usize] as u32;
                features.fill(old, &mut row);
                assert_eq!(
                    shard.row(rudder_dataset::LocalRow(local as u64)),
                    Some(bytemuck::cast_slice::<f32, u8>(&row))
                );
                assert_eq!(truth[id as usize], row_hash(bytemuck::cast_slice(&row)));
                assert_eq!(labels[id as usize], graph.labels[old as usize]);
            }
        }
    }

    #[test]
    fn splits_take_their_shares_and_large_graphs_their_limits() {
        let count = |vertices: usize, wanted| {
            (0..vertices as u64).filter(|&old| split(old, vertices, 1) == wanted).count() as f64
        };
        for wanted in [Split::Train, Split::Test] {
            assert!((count(60_000, wanted) / 6_000.0 - 1.0).abs() < 0.05);
        }
        assert!((count(400_000, Split::Train) / 20_000.0 - 1.0).abs() < 0.05);
        assert!((count(400_000, Split::Test) / 10_000.0 - 1.0).abs() < 0.05);
    }

    #[test]
    fn a_graph_beyond_the_machine_is_refused_at_once() {
        let error = check_room(Path::new("/"), 1 << 40, 100).unwrap_err().to_string();
        assert!(error.contains("MiB of memory") && error.contains("fewer vertices"), "{error}");
    }
}
