//! `rudder get`: prints rows of a running daemon, by the ids of the user's own files. Owns how an element is written
//! and how much of a row is shown. It must never print a row of other ids than those that were asked for.

use std::fmt::Write as _;
use std::path::PathBuf;

use half::{bf16, f16};
use rudder_client::{Client, ConnectOptions, DType, IdSpace, RowSources};
use rudder_stage::place::Place;
use serde_json::{Value, json};

use super::{CliError, grouped, row_words, style};

/// Most rows of one call: what a person can read.
const IDS_MAX: usize = 10_000;

/// Arguments of `rudder get`.
#[derive(Debug, clap::Args)]
pub struct GetArgs {
    /// Name of the table
    #[arg(value_name = "TABLE")]
    table: String,
    /// Ids of the rows; where vertices have names, names
    #[arg(value_name = "ID", required = true, num_args = 1..)]
    ids: Vec<String>,
    /// Which ids these are, where the import renumbered vertices: `original` (of your own files) or `dataset`
    #[arg(long = "ids", value_name = "SPACE", default_value = "original", value_parser = ["original", "dataset"])]
    space: String,
    /// Take each ID for a name, also those that are numbers
    #[arg(long)]
    names: bool,
    /// Elements of a row to print; 0 prints all
    #[arg(long, value_name = "N", default_value_t = 8)]
    limit: usize,
    /// The daemon's socket; by default $RUDDER_SOCKET, else the only one that `rudder up` keeps, else
    /// /run/rudder/rudder.sock
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Print as JSON, with all elements
    #[arg(long)]
    json: bool,
}

/// Fetches the rows and prints them.
///
/// # Errors
/// No daemon answers, or it refuses a table or an id.
pub fn run(args: &GetArgs) -> Result<(), CliError> {
    if args.ids.len() > IDS_MAX {
        let words =
            format!("{} ids are more than the {IDS_MAX} that are printed at once; use a client", args.ids.len());
        return Err(CliError::message(words));
    }
    let space = if args.space == "dataset" { IdSpace::Dataset } else { IdSpace::Original };
    let socket = args.socket.clone().or_else(of_the_only_place);
    let client = Client::connect(ConnectOptions { socket, ids: space, ..ConnectOptions::default() })?;
    let table = client.table(&args.table)?.clone();
    // One by one, so that each tells where it came from.
    let mut rows = Vec::with_capacity(args.ids.len());
    for word in &args.ids {
        let id = id_of(args, &client, table.named, word)?;
        let fetched = client.fetch(&args.table, &[id])?;
        rows.push((word, id, source(fetched.sources()), elements(table.dtype, fetched.row(0))));
    }
    if args.json {
        let value = |(word, id, from, row): &(&String, u64, &str, Vec<Value>)| json!({"asked": word, "id": id, "from": from, "row": nested(row, &table.shape)});
        let rows: Vec<Value> = rows.iter().map(value).collect();
        return style::print_json_line(&json!({
            "table": table.name, "dtype": table.dtype.name(), "shape": table.shape, "rows_of_table": table.rows,
            "ids": space.name(), "renumbered": table.renumbered, "node": client.node(), "rows": rows,
        }));
    }
    let numbers = match (table.renumbered, space) {
        (true, IdSpace::Original) => "ids are those of your own files; the import renumbered the vertices",
        (true, IdSpace::Dataset) => "ids are those that the import gave",
        (false, _) => "the import kept the ids",
    };
    let (total, row) = (grouped(table.rows), row_words(&table.shape, table.dtype.name()));
    let mut text = format!("# {}: {total} rows of {row}; {numbers}\n", table.name);
    for (word, id, from, row) in &rows {
        let _ = if **word == id.to_string() { Ok(()) } else { write!(text, "{word} = ") };
        let shown = if args.limit == 0 { row.len() } else { args.limit.min(row.len()) };
        let _ = writeln!(text, "{id}  {}  {from}", brackets(row, &table.shape, shown));
    }
    style::print(&text)
}

/// The id that was meant: a number, or the name of a vertex.
fn id_of(args: &GetArgs, client: &Client, named: bool, word: &str) -> Result<u64, CliError> {
    match word.parse() {
        Ok(id) if !args.names => Ok(id),
        _ if !named && !args.names => {
            let words = format!("`{word}` is no id, and the vertices of table `{}` have no names", args.table);
            Err(CliError::message(words))
        }
        _ => {
            let found = client.ids_of_names(&args.table, &[word])?;
            found.first().copied().ok_or_else(|| CliError::message(format!("no vertex is called `{word}`")))
        }
    }
}

/// The socket of the first daemon that `rudder up` keeps, if it keeps those of one dataset and nothing else is said.
fn of_the_only_place() -> Option<PathBuf> {
    if std::env::var_os("RUDDER_SOCKET").is_some_and(|path| !path.is_empty()) {
        return None;
    }
    let mut states = Place::all().iter().filter_map(Place::ready).collect::<Vec<_>>();
    let state = states.pop().filter(|_| states.is_empty())?;
    state.nodes.into_iter().next().map(|node| node.socket)
}

/// Where one row came from.
fn source(sources: RowSources) -> &'static str {
    match sources {
        RowSources { local: 1.., .. } => "own shard of this node",
        RowSources { cache: 1.., .. } => "cache of this node",
        RowSources { staged: 1.., .. } => "staged at this node",
        _ => "fetched from its owner",
    }
}

/// The elements of a row, as JSON. What JSON cannot say is text: `NaN`, `inf`, `-inf`.
fn elements(dtype: DType, row: &[u8]) -> Vec<Value> {
    let real = |value: f64| serde_json::Number::from_f64(value).map_or_else(|| json!(value.to_string()), Value::Number);
    // The shortest text that reads back as the same number of the table's type, not of the longer one.
    let single = |value: f32| real(value.to_string().parse().unwrap_or(f64::from(value)));
    let each = |bytes: usize| row.chunks_exact(bytes);
    match dtype {
        DType::F32 => each(4).map(|of| single(f32::from_le_bytes(array(of)))).collect(),
        DType::F64 => each(8).map(|of| real(f64::from_le_bytes(array(of)))).collect(),
        DType::F16 => each(2).map(|of| single(f16::from_le_bytes(array(of)).to_f32())).collect(),
        DType::Bf16 => each(2).map(|of| single(bf16::from_le_bytes(array(of)).to_f32())).collect(),
        DType::I64 => each(8).map(|of| json!(i64::from_le_bytes(array(of)))).collect(),
        DType::I32 => each(4).map(|of| json!(i32::from_le_bytes(array(of)))).collect(),
        DType::I16 => each(2).map(|of| json!(i16::from_le_bytes(array(of)))).collect(),
        DType::I8 => row.iter().map(|&byte| json!(byte.cast_signed())).collect(),
        DType::U8 => row.iter().map(|&byte| json!(byte)).collect(),
        DType::Bool => row.iter().map(|&byte| json!(byte != 0)).collect(),
        DType::U16 => each(2).map(|of| json!(u16::from_le_bytes(array(of)))).collect(),
        DType::U32 => each(4).map(|of| json!(u32::from_le_bytes(array(of)))).collect(),
        DType::U64 => each(8).map(|of| json!(u64::from_le_bytes(array(of)))).collect(),
    }
}

/// The elements of a row in its shape; a row without dimensions is its one element.
fn nested(row: &[Value], shape: &[u32]) -> Value {
    let Some((&size, inner)) = shape.split_first() else { return row.first().cloned().unwrap_or_default() };
    let inner_len = row.len() / (size.max(1) as usize);
    Value::Array(row.chunks(inner_len.max(1)).map(|part| nested(part, inner)).collect())
}

/// The first `shown` elements of a row, with a pair of brackets for each dimension.
fn brackets(row: &[Value], shape: &[u32], shown: usize) -> String {
    let suffix = |from: usize| shape[from..].iter().map(|&size| size as usize).product::<usize>();
    // After how many elements each dimension closes, the outermost first.
    let lengths: Vec<usize> = (0..shape.len()).map(suffix).collect();
    let ends = |at: usize| lengths.iter().filter(|&&length| at.is_multiple_of(length)).count();
    let mut text = String::new();
    for (at, element) in row[..shown].iter().enumerate() {
        let _ = write!(
            text,
            "{}{}{}{}",
            if at > 0 { ", " } else { "" },
            "[".repeat(ends(at)),
            plain(element),
            "]".repeat(ends(at + 1))
        );
    }
    let more = row.len() - shown;
    if more > 0 {
        let _ = write!(text, ", ... {more} more{}", "]".repeat(lengths.len() - ends(shown)));
    }
    text
}

/// The bytes of one element.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(bytes);
    array
}

/// An element as a person reads it.
fn plain(element: &Value) -> String {
    match element {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(dtype: DType, row: &[u8]) -> String {
        elements(dtype, row).iter().map(plain).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn elements_are_written_as_short_as_they_read_back() {
        let singles: Vec<u8> = [0.1f32, -2.0, f32::NAN, f32::INFINITY].into_iter().flat_map(f32::to_le_bytes).collect();
        assert_eq!(text(DType::F32, &singles), "0.1 -2.0 NaN inf");
        assert_eq!(text(DType::F64, &0.1f64.to_le_bytes()), "0.1");
        assert_eq!(text(DType::F16, &f16::from_f32(1.5).to_le_bytes()), "1.5");
        assert_eq!(text(DType::Bf16, &bf16::from_f32(-3.0).to_le_bytes()), "-3.0");
        assert_eq!(text(DType::I64, &(-7i64).to_le_bytes()), "-7");
        assert_eq!(text(DType::U8, &[0, 255]), "0 255");
        assert_eq!(text(DType::Bool, &[0, 1]), "false true");
        assert_eq!(text(DType::U16, &u16::MAX.to_le_bytes()), "65535");
        assert_eq!(text(DType::U32, &u32::MAX.to_le_bytes()), "4294967295");
        assert_eq!(text(DType::U64, &u64::MAX.to_le_bytes()), "18446744073709551615");
    }

    #[test]
    fn a_row_is_written_in_its_shape() {
        let row: Vec<Value> = (0..6).map(|at| json!(at)).collect();
        assert_eq!(brackets(&row[..1], &[], 1), "0");
        assert_eq!(brackets(&row[..1], &[1], 1), "[0]");
        assert_eq!(brackets(&row, &[6], 2), "[0, 1, ... 4 more]");
        assert_eq!(brackets(&row, &[2, 3], 6), "[[0, 1, 2], [3, 4, 5]]");
        assert_eq!(brackets(&row, &[2, 3], 3), "[[0, 1, 2], ... 3 more]");
        assert_eq!(brackets(&row, &[2, 3], 4), "[[0, 1, 2], [3, ... 2 more]]");
        assert_eq!(brackets(&row, &[1, 6, 1], 1), "[[[0], ... 5 more]]");
        assert_eq!(nested(&row, &[2, 3]), json!([[0, 1, 2], [3, 4, 5]]));
        assert_eq!((nested(&row[..1], &[]), nested(&row[..1], &[1])), (json!(0), json!([0])));
        assert_eq!(nested(&row, &[6]), json!([0, 1, 2, 3, 4, 5]));
    }
}
