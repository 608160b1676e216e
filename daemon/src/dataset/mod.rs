//! Datasets: named feature tables over vertex types, split over the nodes of a cluster. Owns the on-disk format
//! (`manifest.json` and `.npy` shards, see `docs/datasets.md`), the partition books, the shards, memory-mapped or
//! read by blocks, the writer, and the partitioner. It knows no other module, and must never change a dataset that is complete: shards are
//! mapped by daemons.

mod blocks;
mod book;
mod build;
mod error;
mod halo;
pub mod import;
mod manifest;
mod map;
pub mod npy;
mod open;
mod partition;
mod relabel;
mod shard;
mod sink;
mod table_writer;
mod verify;
mod writer;

#[cfg(test)]
mod tests;

pub use blocks::{
    BlockCache, BlockCacheError, BlockCacheStatus, BlockSettings, BlockShard, BlockShardStatus, ReadError, WantedRow,
};
pub use book::{BookError, Location, PartitionBook};
pub use build::{FillRow, GraphDataset, GraphSummary, TableSource, write_graph_dataset};
pub use error::DatasetError;
pub use manifest::{
    BookManifest, Checksum, FORMAT_VERSION, FileManifest, GraphManifest, MANIFEST_FILE, Manifest, ROW_BYTES_MAX,
    ShardManifest, TableManifest, VertexType,
};
pub use open::{Dataset, Table, Verify};
pub use partition::{CsrGraph, PartitionError, balance, edge_cut, partition};
pub use relabel::Relabelling;
pub use shard::Shard;
pub use table_writer::TableWriter;
pub use writer::{BookSpec, DatasetWriter, Existing};
