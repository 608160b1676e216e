//! Edges from a `.npy` array of integers. It must never guess which way the array lies.

use std::fs::File;

use crate::array::ArrayFile;
use crate::edge_list::{Collector, EdgeLayout};
use rudder_dataset::DatasetError;
use rudder_dataset::npy::{ForeignHeader, NpyType};

/// Ids that are read at once.
const PIECE_IDS: u64 = 1 << 16;

/// Adds the edges of the array to `collector`; `name` is the array's, for messages.
pub(super) fn read_edge_array(
    name: &str,
    file: File,
    header: &ForeignHeader,
    layout: Option<EdgeLayout>,
    collector: &mut Collector,
) -> Result<(), DatasetError> {
    let wrong = |what: String| DatasetError::Input(format!("{name}: {what}"));
    if matches!(header.header.element, NpyType::Bool | NpyType::F16 | NpyType::F32 | NpyType::F64 | NpyType::Void2) {
        return Err(wrong(format!("elements `{}`: ids of vertices are integers", header.descr)));
    }
    let shape = &header.header.shape;
    let layout = layout_of(&shape.0, layout).map_err(|what| wrong(format!("the shape {shape} {what}")))?;
    // Columns of an array in Fortran order are rows of one in C order.
    let is_by_rows = (layout == EdgeLayout::Rows) != header.is_fortran_order;
    let edges = shape.0[usize::from(layout == EdgeLayout::Rows)];
    let ids = ArrayFile::ids(name, file, header, 2 * edges)?;
    let at = |what: String, edge: u64| wrong(format!("edge {edge}: {what}"));
    let mut done = 0;
    while done < edges {
        let count = (edges - done).min(PIECE_IDS);
        if is_by_rows {
            let (from, to) = (ids.read_ids(done, count)?, ids.read_ids(edges + done, count)?);
            for (edge, (a, b)) in (done..).zip(from.into_iter().zip(to)) {
                collector.push_ids(a, b, edge).map_err(|what| at(what, edge))?;
            }
        } else {
            for (edge, pair) in (done..).zip(ids.read_ids(2 * done, 2 * count)?.as_chunks::<2>().0) {
                collector.push_ids(pair[0], pair[1], edge).map_err(|what| at(what, edge))?;
            }
        }
        done += count;
    }
    collector.check_greatest().map_err(|(edge, what)| at(what, edge))
}

fn layout_of(shape: &[u64], asked: Option<EdgeLayout>) -> Result<EdgeLayout, String> {
    let &[rows, columns] = shape else {
        return Err("is no edge list: edges are [m, 2] or [2, m]".into());
    };
    match (asked, rows == 2, columns == 2) {
        (Some(EdgeLayout::Pairs), _, true) => Ok(EdgeLayout::Pairs),
        (Some(EdgeLayout::Rows), true, _) => Ok(EdgeLayout::Rows),
        (Some(EdgeLayout::Pairs), ..) => Err("has no two columns (--edge-layout pairs)".into()),
        (Some(EdgeLayout::Rows), ..) => Err("has no two rows (--edge-layout rows)".into()),
        (None, true, true) => {
            Err("can be read in two ways: say whether each row is an edge (--edge-layout pairs), or \
                                   the first row holds the sources and the second the destinations (--edge-layout rows)"
                .into())
        }
        (None, false, true) => Ok(EdgeLayout::Pairs),
        (None, true, false) => Ok(EdgeLayout::Rows),
        (None, false, false) => Err("is no edge list: edges are [m, 2] or [2, m]".into()),
    }
}
