//! Datasets: named feature tables over vertex types, split over the nodes of a cluster. Owns the on-disk format
//! (`manifest.json` and `.npy` shards, see `docs/datasets.md`), the reading of DistDGL partitions where they lie, the
//! partition books, the shards, memory-mapped or read by blocks. It must never change a file: what makes datasets is
//! `rudder-import`.

mod blocks;
mod book;
mod checksum;
mod column;
mod distdgl;
mod error;
mod form;
mod graph;
mod halo;
mod ids;
pub mod manifest;
pub mod map;
mod names;
mod naming;
pub mod npy;
mod open;
mod part;
mod settings;
pub mod shard;
mod source;
mod verify;

pub use blocks::{BlockCache, BlockCacheError, BlockCacheStatus, BlockShard, BlockShardStatus, ReadError, WantedRow};
pub use book::{BookError, Location, PartitionBook};
pub use checksum::Checksum;
pub use distdgl::{DISTDGL_PREFIX, DglError, DistDgl, FILE_MAGIC, FeatureFile, FilePiece};
pub use error::DatasetError;
pub use form::{ROW_BYTES_MAX, ROW_DIMENSIONS_MAX, RowForm, RowFormError};
pub use graph::{CsrGraph, GraphError};
pub use ids::{IdError, Inverse, VertexIds};
pub use manifest::{
    BookManifest, FORMAT_VERSION, FileManifest, GraphManifest, MANIFEST_FILE, Manifest, Place, ShardManifest,
    TableManifest, VertexType,
};
pub use names::{NameError, NameIndex, VertexNames};
pub use naming::{UNNAMED_TYPE, table_name};
pub use open::{Dataset, Table};
pub use part::{LocalRow, Part};
pub use settings::{Access, BlockSettings, Verify};
pub use shard::Shard;
pub use source::{Origin, Source};
pub use verify::checksum_of_piece;
