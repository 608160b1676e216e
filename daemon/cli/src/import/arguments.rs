//! What the arguments of `rudder import` say: tables, books, columns. Owns their forms; it must never open a file.

use std::path::PathBuf;
use std::str::FromStr;

use rudder_client::DType;
use rudder_dataset::table_name;
use rudder_import::{ArraySource, ArrayTable, BookChoice, EdgeLayout, VertexSource};

/// `NAME[@TYPE]=FILE[:ARRAY][:DTYPE]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TableArg {
    pub(super) name: String,
    pub(super) vertex_type: Option<String>,
    source: ArraySource,
    dtype: Option<DType>,
}

/// Endings of files that hold arrays; behind them, a colon begins what belongs to the table and not to the name.
const ENDINGS: [&str; 3] = [".npy:", ".npz:", ".safetensors:"];

impl FromStr for TableArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}`: expected NAME[@TYPE]=FILE[:DTYPE], such as feat=feat.npy or feat=feat.npy:f16; \
                 FILE:ARRAY names an array of a .npz or .safetensors file"
            )
        };
        let (name, file) =
            text.split_once('=').filter(|(name, file)| !name.is_empty() && !file.is_empty()).ok_or_else(wrong)?;
        let (name, vertex_type) = match name.split_once('@') {
            Some((name, vertex_type)) => (name, Some(vertex_type.to_owned())),
            None => (name, None),
        };
        let ending = ENDINGS.into_iter().filter_map(|ending| Some((file.rfind(ending)?, ending))).max();
        let (path, behind) = match ending {
            Some((at, ending)) => file.split_at(at + ending.len() - 1),
            None => (file, ""),
        };
        let behind = behind.strip_prefix(':');
        let is_one_array = path.ends_with(".npy");
        let (member, dtype) = match behind {
            None => (None, None),
            Some(dtype) if is_one_array => (None, Some(parse_dtype(dtype)?)),
            // `x.npz:f16` is a type for the only array; `x.npz:feat` an array; `x.npz:feat:f16` both.
            Some(rest) => match rest.rsplit_once(':') {
                Some((member, dtype)) => match DType::from_str(dtype) {
                    Ok(dtype) => (Some(member), Some(dtype)),
                    Err(_) => (Some(rest), None),
                },
                None => match DType::from_str(rest) {
                    Ok(dtype) => (None, Some(dtype)),
                    Err(_) => (Some(rest), None),
                },
            },
        };
        if member.is_some_and(str::is_empty) {
            return Err(wrong());
        }
        let source = ArraySource { path: path.into(), member: member.map(str::to_owned) };
        Ok(Self { name: name.to_owned(), vertex_type, source, dtype })
    }
}

fn parse_dtype(text: &str) -> Result<DType, String> {
    DType::from_str(text).map_err(|error| error.to_string())
}

impl TableArg {
    pub(super) fn table(&self, default_type: &str, lossy: bool) -> ArrayTable {
        let vertex_type = self.vertex_type.clone().unwrap_or_else(|| default_type.to_owned());
        ArrayTable {
            name: table_name(&vertex_type, &self.name),
            vertex_type,
            source: self.source.clone(),
            dtype: self.dtype,
            lossy,
        }
    }
}

/// `[TYPE=]ranges|map:FILE`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BookArg {
    pub(super) vertex_type: Option<String>,
    pub(super) choice: BookChoice,
}

impl FromStr for BookArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // The type comes before `=`, unless that sign is in the file's name.
        let (vertex_type, choice) = match text.split_once('=') {
            Some((vertex_type, choice)) if !vertex_type.starts_with("map:") => (Some(vertex_type.to_owned()), choice),
            _ => (None, text),
        };
        let choice = match choice.split_once(':') {
            None if choice == "ranges" => BookChoice::Ranges,
            Some(("map", file)) if !file.is_empty() => BookChoice::Map(file.into()),
            _ => {
                return Err(format!(
                    "`{text}`: expected `ranges` or `map:FILE`, with `TYPE=` before it for another type"
                ));
            }
        };
        Ok(Self { vertex_type, choice })
    }
}

/// `A,B`: two columns, from 1.
pub(super) fn columns(text: &str) -> Result<(usize, usize), String> {
    let column = |text: &str| text.trim().parse().ok().filter(|&column: &usize| column > 0);
    let both = text.split_once(',').and_then(|(a, b)| Some((column(a)?, column(b)?))).filter(|(a, b)| a != b);
    both.ok_or_else(|| format!("`{text}`: expected two columns, counted from 1, such as 1,2"))
}

/// `N|FILE`: how many vertices there are, or a file that names them.
pub(super) fn vertices(text: &str) -> Result<VertexSource, String> {
    Ok(match text.parse() {
        Ok(count) => VertexSource::Count(count),
        Err(_) => VertexSource::Names(PathBuf::from(text)),
    })
}

/// How an array of edges lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum LayoutArg {
    /// Each row is an edge: [m, 2]
    Pairs,
    /// A row of sources and one of destinations: [2, m]
    Rows,
}

impl From<LayoutArg> for EdgeLayout {
    fn from(layout: LayoutArg) -> Self {
        match layout {
            LayoutArg::Pairs => Self::Pairs,
            LayoutArg::Rows => Self::Rows,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_arguments() {
        let parse = |text: &str| TableArg::from_str(text);
        let expected = |vertex_type: Option<&str>, path: &str, member: Option<&str>, dtype| TableArg {
            name: "feat".into(),
            vertex_type: vertex_type.map(str::to_owned),
            source: ArraySource { path: path.into(), member: member.map(str::to_owned) },
            dtype,
        };
        assert_eq!(parse("feat=a.npy"), Ok(expected(None, "a.npy", None, None)));
        assert_eq!(parse("feat=a.npy:bf16"), Ok(expected(None, "a.npy", None, Some(DType::Bf16))));
        assert_eq!(parse("feat@paper=a=b:c.npy"), Ok(expected(Some("paper"), "a=b:c.npy", None, None)));
        assert_eq!(parse("feat=a.npz:x:f16"), Ok(expected(None, "a.npz", Some("x"), Some(DType::F16))));
        assert_eq!(parse("feat=a.npz:f16"), Ok(expected(None, "a.npz", None, Some(DType::F16))));
        assert_eq!(parse("feat=a.safetensors:l:0"), Ok(expected(None, "a.safetensors", Some("l:0"), None)));
        assert_eq!(parse("feat=a.npy:d/b.npy:f16"), Ok(expected(None, "a.npy:d/b.npy", None, Some(DType::F16))));
        assert_eq!(parse("feat=-"), Ok(expected(None, "-", None, None)));
        assert!(parse("feat=a.npy:f8").unwrap_err().contains("`f8`"));
        assert!(parse("feat=a.npz:").is_err() && parse("=a.npy").is_err());
        assert!(parse("a.npy").unwrap_err().contains("NAME[@TYPE]=FILE"));
    }

    #[test]
    fn book_arguments() {
        let parse = |text: &str| BookArg::from_str(text);
        assert_eq!(parse("ranges"), Ok(BookArg { vertex_type: None, choice: BookChoice::Ranges }));
        let map = BookChoice::Map("o=1.npy".into());
        assert_eq!(parse("map:o=1.npy"), Ok(BookArg { vertex_type: None, choice: map.clone() }));
        assert_eq!(parse("paper=map:o=1.npy"), Ok(BookArg { vertex_type: Some("paper".into()), choice: map }));
        assert!(parse("hash").is_err() && parse("map:").is_err());
    }

    #[test]
    fn columns_and_vertices() {
        assert_eq!(columns("2, 3"), Ok((2, 3)));
        assert!(["", "1", "0,1", "1,1", "a,b", "1,2,3"].into_iter().all(|text| columns(text).is_err()));
        assert_eq!(vertices("12"), Ok(VertexSource::Count(12)));
        assert_eq!(vertices("12.txt"), Ok(VertexSource::Names("12.txt".into())));
    }
}
