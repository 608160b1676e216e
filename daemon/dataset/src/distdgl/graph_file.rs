//! `GRAPH.json` of a DistDGL partition: which types there are, which ids each part owns, and which files hold its
//! features. Every check that needs this file alone is here; it must never open another.
//!
//! The ids in `node_map` and `edge_map` are those of the homogenised graph: part after part, inside a part type after
//! type. What DistDGL's users name a vertex or edge by is its id of its own type, which counts the ids of the type
//! alone, in the same order.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::error::DatasetError;
use crate::manifest::is_inside;

/// Longest file that is read. Ranges of 65,535 parts and 100 types stay below it.
const BYTES_MAX: u64 = 1 << 30;

/// Type of the vertices of a graph that has only one.
const DEFAULT_NODE_TYPE: &str = "_N";

/// Type of the edges of a graph that has only one.
const DEFAULT_EDGE_TYPE: &str = "_N:_E:_N";

/// Type of the edges in files that older versions of DGL wrote.
const OLD_EDGE_TYPE: &str = "_E";

/// Vertices or edges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Node,
    Edge,
}

/// A vertex or edge type: part `i` owns the ids `starts[i]..starts[i + 1]` of the type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TypeRanges {
    pub(super) name: String,
    pub(super) kind: Kind,
    /// Parts + 1 ascending numbers.
    pub(super) starts: Vec<u64>,
}

/// Files of a part, relative to the JSON file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct PartFiles {
    node_feats: Option<String>,
    edge_feats: Option<String>,
}

impl PartFiles {
    /// The file with the features of vertices or edges; `None` when the partition has no such file.
    pub(super) fn of(&self, kind: Kind) -> Option<&str> {
        match kind {
            Kind::Node => self.node_feats.as_deref(),
            Kind::Edge => self.edge_feats.as_deref(),
        }
    }
}

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GraphFile {
    pub(super) name: String,
    /// Vertex types in the order of their numbers, then edge types.
    pub(super) types: Vec<TypeRanges>,
    /// One for each part.
    pub(super) files: Vec<PartFiles>,
}

/// The fields as they are written; others are of no use here.
#[derive(Deserialize)]
struct Fields {
    graph_name: String,
    num_parts: u64,
    num_nodes: u64,
    num_edges: u64,
    node_map: Value,
    edge_map: Value,
    #[serde(default)]
    ntypes: BTreeMap<String, u64>,
    #[serde(default)]
    etypes: BTreeMap<String, u64>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

impl GraphFile {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// [`DatasetError::DistDgl`] naming the field at fault, [`DatasetError::PathEscapes`]; I/O errors.
    pub(super) fn read(path: &Path) -> Result<Self, DatasetError> {
        let text = read_bounded(path)?;
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &[u8]) -> Result<Self, DatasetError> {
        let wrong = |what: String| DatasetError::DistDgl { path: path.to_owned(), what };
        let fields: Fields = serde_json::from_slice(text)
            .map_err(|error| wrong(format!("not a file that dgl.distributed.partition_graph writes: {error}")))?;
        let parts = u16::try_from(fields.num_parts).ok().filter(|parts| (1..u16::MAX).contains(parts));
        let parts =
            parts.ok_or_else(|| wrong(format!("`num_parts` is {}: 1 to 65534 are possible", fields.num_parts)))?;
        let (nodes, edges) = (&Map::NODES, &Map::EDGES);
        let mut types = nodes.types(&fields.node_map, &fields.ntypes, parts, fields.num_nodes).map_err(wrong)?;
        types.extend(edges.types(&fields.edge_map, &fields.etypes, parts, fields.num_edges).map_err(wrong)?);
        let mut files = Vec::with_capacity(usize::from(parts));
        for part in 0..parts {
            let key = format!("part-{part}");
            let value = fields.rest.get(&key).ok_or_else(|| {
                wrong(format!(
                    "no `{key}`, but `num_parts` is {parts}: copy the file again, or make the partition again"
                ))
            })?;
            let of_part = PartFiles::deserialize(value)
                .map_err(|error| wrong(format!("`{key}`: {error}: its files are texts")))?;
            for found in [Kind::Node, Kind::Edge].into_iter().filter_map(|kind| of_part.of(kind)) {
                if !is_inside(found) {
                    return Err(DatasetError::PathEscapes { manifest: path.to_owned(), found: found.to_owned() });
                }
            }
            files.push(of_part);
        }
        Ok(Self { name: fields.graph_name, types, files })
    }

    /// The type and the attribute that a tensor of a file is of: `TYPE/ATTR`, or `ATTR` alone in the files of older
    /// versions, whose graphs have one type.
    ///
    /// # Errors
    /// What is wrong with the name.
    pub(super) fn split<'a>(&self, kind: Kind, tensor: &'a str) -> Result<(usize, &'a str), String> {
        let of_kind = || self.types.iter().enumerate().filter(|(_, found)| found.kind == kind);
        let with_type = of_kind().filter_map(|(at, found)| {
            let attribute = tensor.strip_prefix(found.name.as_str())?.strip_prefix('/')?;
            Some((found.name.len(), at, attribute))
        });
        // A type's name may hold a slash: the longest one is meant.
        let (at, attribute) = match with_type.max() {
            Some((_, at, attribute)) => (at, attribute),
            None => match (of_kind().next(), of_kind().nth(1)) {
                (Some((at, _)), None) if !tensor.contains('/') => (at, tensor),
                _ => return Err(format!("tensor `{tensor}` is of no type that the JSON file has")),
            },
        };
        if attribute.is_empty() {
            Err(format!("tensor `{tensor}` has no name of its own"))
        } else {
            Ok((at, attribute))
        }
    }
}

/// A type as a map has it: its number, and a pair of ids of the homogenised graph for each part.
struct Numbered<'a> {
    number: u64,
    name: &'a str,
    ranges: Vec<(u64, u64)>,
}

/// One of the two maps and what belongs to it.
struct Map {
    kind: Kind,
    /// Field of the map.
    field: &'static str,
    /// Field of the numbers of its types.
    numbers: &'static str,
    /// Field of the ids of all types together.
    total: &'static str,
    /// The type of a map that names none.
    default: &'static str,
}

impl Map {
    const NODES: Self =
        Self { kind: Kind::Node, field: "node_map", numbers: "ntypes", total: "num_nodes", default: DEFAULT_NODE_TYPE };

    const EDGES: Self =
        Self { kind: Kind::Edge, field: "edge_map", numbers: "etypes", total: "num_edges", default: DEFAULT_EDGE_TYPE };

    /// The types of the map, in the order of their numbers.
    fn types(
        &self,
        map: &Value,
        numbers: &BTreeMap<String, u64>,
        parts: u16,
        total: u64,
    ) -> Result<Vec<TypeRanges>, String> {
        let Self { field, .. } = self;
        let entries: Vec<(&str, &Value)> = match map {
            Value::Object(types) => types.iter().map(|(name, ranges)| (name.as_str(), ranges)).collect(),
            Value::Array(_) => vec![(self.default, map)],
            other => return Err(self.no_ranges(field, other)),
        };
        let mut types = Vec::with_capacity(entries.len());
        for (name, value) in entries {
            let number = match numbers.get(name) {
                Some(&number) => number,
                None if numbers.is_empty() => 0,
                None => return Err(format!("`{field}`: type `{name}` is not in `{}`", self.numbers)),
            };
            types.push(Numbered { number, name, ranges: self.ranges(name, value, parts)? });
        }
        types.sort_by_key(|found| (found.number, found.name));
        self.check_order(&types, parts, total)?;
        Ok(types.iter().map(|found| self.with_own_ids(found.name, &found.ranges)).collect())
    }

    /// The ranges of one type in ids of the homogenised graph, a pair for each part. Older versions wrote ends alone.
    fn ranges(&self, name: &str, value: &Value, parts: u16) -> Result<Vec<(u64, u64)>, String> {
        let field = format!("{}.{name}", self.field);
        let Value::Array(items) = value else { return Err(self.no_ranges(&field, value)) };
        if items.len() != usize::from(parts) {
            return Err(format!("`{field}` has {} ranges, but `num_parts` is {parts}", items.len()));
        }
        let mut before = 0;
        let mut ranges = Vec::with_capacity(items.len());
        for (part, item) in items.iter().enumerate() {
            let pair = match item {
                Value::Number(end) => end.as_u64().map(|end| (before, end)),
                Value::Array(pair) => match pair.as_slice() {
                    [start, end] => start.as_u64().zip(end.as_u64()),
                    _ => None,
                },
                _ => None,
            };
            let (start, end) = pair.filter(|(start, end)| start <= end).ok_or_else(|| {
                format!(
                    "`{field}`: part {part} has {item}, and not [start, end) with a start that is not above the end"
                )
            })?;
            before = end;
            ranges.push((start, end));
        }
        Ok(ranges)
    }

    fn no_ranges(&self, field: &str, value: &Value) -> String {
        match value {
            Value::String(file) => format!(
                "`{field}` is the file `{file}` and not ranges: the partition was made with reshuffle=False, which \
                 DistDGL does not read either; make it again"
            ),
            _ => format!("`{field}` is no list of ranges"),
        }
    }

    /// Part after part, type after type, the ranges must follow each other without a gap, up to the ids there are.
    fn check_order(&self, types: &[Numbered<'_>], parts: u16, total: u64) -> Result<(), String> {
        let field = self.field;
        let mut end = 0;
        for part in 0..usize::from(parts) {
            // What a part has nothing of lies nowhere.
            let mut of_part: Vec<(u64, u64, &str)> =
                types.iter().map(|found| (found.ranges[part].0, found.ranges[part].1, found.name)).collect();
            of_part.retain(|(start, end, _)| start < end);
            of_part.sort_unstable();
            for (start, next, name) in of_part {
                if start != end {
                    return Err(format!(
                        "`{field}.{name}`: part {part} has [{start}, {next}], but the ids before it end at {end}: ranges \
                         must follow each other without a gap, part after part; make the partition again"
                    ));
                }
                end = next;
            }
        }
        if end == total {
            return Ok(());
        }
        Err(format!("`{field}` ends at {end}, but `{}` is {total}: the two are not of one partition", self.total))
    }

    /// The ranges in ids of the type alone.
    fn with_own_ids(&self, name: &str, ranges: &[(u64, u64)]) -> TypeRanges {
        let mut starts = vec![0];
        starts.extend(ranges.iter().scan(0, |sum, (start, end)| {
            *sum += end - start;
            Some(*sum)
        }));
        let is_old = self.kind == Kind::Edge && name == OLD_EDGE_TYPE;
        let name = if is_old { DEFAULT_EDGE_TYPE } else { name };
        TypeRanges { name: name.to_owned(), kind: self.kind, starts }
    }
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, DatasetError> {
    let wrong = |what: &str| DatasetError::DistDgl { path: path.to_owned(), what: what.to_owned() };
    let file = File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => wrong("no such file: name the JSON file of a DistDGL partition after `distdgl:`"),
        _ => DatasetError::io(path, "open")(error),
    })?;
    if file.metadata().map_err(DatasetError::io(path, "open"))?.is_dir() {
        return Err(wrong("a folder: name the JSON file in it, such as `distdgl:FOLDER/GRAPH.json`"));
    }
    let mut text = Vec::new();
    file.take(BYTES_MAX + 1).read_to_end(&mut text).map_err(DatasetError::io(path, "read"))?;
    if text.len() as u64 > BYTES_MAX {
        return Err(wrong("longer than 1 GiB: not the JSON file of a DistDGL partition"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    /// What DGL 2.1 wrote of a graph of two vertex types and three edge types in two parts.
    fn heterogeneous() -> Value {
        json!({
            "graph_name": "het2", "num_nodes": 80, "num_edges": 280, "part_method": "metis", "num_parts": 2,
            "halo_hops": 1,
            "node_map": {"author": [[0, 15], [40, 55]], "paper": [[15, 40], [55, 80]]},
            "edge_map": {
                "author:writes:paper": [[0, 38], [135, 177]],
                "paper:cites:paper": [[38, 97], [177, 238]],
                "paper:rev_writes:author": [[97, 135], [238, 280]]
            },
            "ntypes": {"author": 0, "paper": 1},
            "etypes": {"author:writes:paper": 0, "paper:cites:paper": 1, "paper:rev_writes:author": 2},
            "part-0": {
                "node_feats": "part0/node_feat.dgl", "edge_feats": "part0/edge_feat.dgl",
                "part_graph": "part0/graph.dgl"
            },
            "part-1": {
                "node_feats": "part1/node_feat.dgl", "edge_feats": "part1/edge_feat.dgl",
                "part_graph": "part1/graph.dgl"
            }
        })
    }

    fn parse(value: &Value) -> Result<GraphFile, String> {
        GraphFile::parse(Path::new("g.json"), value.to_string().as_bytes()).map_err(|error| error.to_string())
    }

    fn starts(graph: &GraphFile) -> Vec<(&str, Vec<u64>)> {
        graph.types.iter().map(|found| (found.name.as_str(), found.starts.clone())).collect()
    }

    #[test]
    fn ids_of_the_homogenised_graph_become_ids_of_each_type() {
        let graph = parse(&heterogeneous()).unwrap();
        let expected = [
            ("author", vec![0, 15, 30]),
            ("paper", vec![0, 25, 50]),
            ("author:writes:paper", vec![0, 38, 80]),
            ("paper:cites:paper", vec![0, 59, 120]),
            ("paper:rev_writes:author", vec![0, 38, 80]),
        ];
        assert_eq!(starts(&graph), expected);
        assert_eq!(graph.files[1].of(Kind::Edge), Some("part1/edge_feat.dgl"));
        assert_eq!(graph.split(Kind::Node, "paper/feat/x"), Ok((1, "feat/x")));
        assert_eq!(graph.split(Kind::Edge, "paper:cites:paper/w"), Ok((3, "w")));
        for wrong in ["feat", "paper", "paper/", "venue/feat"] {
            assert!(graph.split(Kind::Node, wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn maps_of_older_versions_are_read() {
        let mut old = json!({
            "graph_name": "g", "num_nodes": 7, "num_edges": 9, "num_parts": 2,
            "node_map": [3, 7], "edge_map": [[0, 4], [4, 9]],
            "part-0": {"node_feats": "n0", "edge_feats": "e0"}, "part-1": {"node_feats": "n1", "edge_feats": "e1"}
        });
        let graph = parse(&old).unwrap();
        assert_eq!(starts(&graph), [("_N", vec![0, 3, 7]), ("_N:_E:_N", vec![0, 4, 9])]);
        assert_eq!(graph.split(Kind::Node, "feat"), Ok((0, "feat")));
        assert_eq!(graph.split(Kind::Edge, "_N:_E:_N/feat"), Ok((1, "feat")));
        old["edge_map"] = json!({"_E": [4, 9]});
        old["etypes"] = json!({"_E": 0});
        assert_eq!(starts(&parse(&old).unwrap())[1], ("_N:_E:_N", vec![0, 4, 9]));
        for file in [json!("node_map.npy"), json!({"_N": "node_map.npy"})] {
            old["node_map"] = file;
            assert!(parse(&old).unwrap_err().contains("reshuffle=False"));
        }
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_field() {
        type Edit = fn(&mut Value);
        let cases: [(Edit, &str); 14] = [
            (
                |g| g["node_map"]["paper"][0][0] = 16.into(),
                "`node_map.paper`: part 0 has [16, 40], but the ids before it end at 15",
            ),
            (|g| g["node_map"]["author"][1] = json!([39, 55]), "`node_map.author`: part 1 has [39, 55]"),
            (
                |g| g["node_map"]["author"][1] = json!([55, 40]),
                "`node_map.author`: part 1 has [55,40], and not [start, end)",
            ),
            (|g| g["node_map"]["author"][1] = json!([-1, 40]), "and not [start, end)"),
            (|g| g["node_map"]["author"][1] = json!([1e30, 2e30]), "and not [start, end)"),
            (|g| g["node_map"]["author"] = json!([[0, 15]]), "`node_map.author` has 1 ranges, but `num_parts` is 2"),
            (|g| g["node_map"] = json!(3), "`node_map` is no list of ranges"),
            (|g| g["num_edges"] = 281.into(), "`edge_map` ends at 280, but `num_edges` is 281"),
            (|g| g["num_parts"] = 0.into(), "`num_parts` is 0"),
            (|g| g["num_parts"] = 65_535.into(), "`num_parts` is 65535"),
            (|g| g["ntypes"] = json!({"author": 0}), "`node_map`: type `paper` is not in `ntypes`"),
            (|g| g["part-1"] = json!(null), "`part-1`"),
            (|g| g["part-1"]["node_feats"] = "../node_feat.dgl".into(), "`../node_feat.dgl` leaves"),
            (|g| g["part-1"]["edge_feats"] = "/etc/passwd".into(), "`/etc/passwd` leaves"),
        ];
        for (edit, expected) in cases {
            let mut graph = heterogeneous();
            edit(&mut graph);
            let message = parse(&graph).unwrap_err();
            assert!(message.contains("g.json") && message.contains(expected), "{message} should say {expected}");
        }
        let mut graph = heterogeneous();
        graph.as_object_mut().unwrap().remove("part-0");
        assert!(parse(&graph).unwrap_err().contains("no `part-0`, but `num_parts` is 2"));
        assert!(parse(&json!({"format": 1})).unwrap_err().contains("missing field"));
    }

    proptest! {
        #[test]
        fn never_panics(text in "[{}\\[\\]:,\"0-9a-z_ ]{0,200}") {
            let _ = GraphFile::parse(Path::new("g.json"), text.as_bytes());
        }

        #[test]
        fn ids_of_a_type_count_its_own(counts in proptest::collection::vec((0u64..9, 0u64..9), 1..6)) {
            let (mut at, mut a, mut b) = (0, Vec::new(), Vec::new());
            for &(of_a, of_b) in &counts {
                for (ranges, count) in [(&mut a, of_a), (&mut b, of_b)] {
                    ranges.push(json!([at, at + count]));
                    at += count;
                }
            }
            let map = json!({"a": a, "b": b});
            let numbers = BTreeMap::from([("a".to_owned(), 1), ("b".to_owned(), 0)]);
            let types = Map::NODES.types(&map, &numbers, counts.len() as u16, at);
            let types = types.map_err(TestCaseError::fail)?;
            let sums = |field: fn(&(u64, u64)) -> u64| {
                let sums = counts.iter().scan(0, move |sum, count| { *sum += field(count); Some(*sum) });
                std::iter::once(0).chain(sums).collect::<Vec<_>>()
            };
            prop_assert_eq!((types[0].name.as_str(), &types[0].starts), ("b", &sums(|count| count.1)));
            prop_assert_eq!((types[1].name.as_str(), &types[1].starts), ("a", &sums(|count| count.0)));
        }
    }
}
