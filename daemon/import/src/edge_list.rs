//! Reads edge lists: text with two columns, or an array of pairs. Vertices are integers, or names that get ids. It must
//! never decide what an edge means (direction and duplicates are the caller's), nor read a file twice.

use std::borrow::Cow;
use std::fs::File;
use std::path::Path;

use crate::array::open_array;
use crate::columns::{Separator, Token};
use crate::edge_array::read_edge_array;
use crate::input::{Input, Kind, Scratch};
use crate::text::Lines;
use crate::vertices::{Names, RowCount, check_id};
use rudder_dataset::DatasetError;
use rudder_dataset::npy::ForeignHeader;

/// Words that head columns of edges, in lower case and without signs.
const HEADINGS: [&str; 28] = [
    "src",
    "dst",
    "dest",
    "source",
    "target",
    "from",
    "to",
    "head",
    "tail",
    "start",
    "end",
    "sourceid",
    "targetid",
    "srcid",
    "dstid",
    "fromid",
    "toid",
    "fromnodeid",
    "tonodeid",
    "fromnode",
    "tonode",
    "startid",
    "endid",
    "node1",
    "node2",
    "id1",
    "id2",
    "destination",
];

/// Edges in the order of the file, ends as 32-bit ids.
#[derive(Clone, Debug, Default)]
pub struct EdgeList {
    /// The pairs.
    pub edges: Vec<(u32, u32)>,
    /// One more than the greatest id, or the number of names.
    pub vertices: u64,
    /// Names by id, when the vertices of the file are names.
    pub names: Option<Names>,
    /// What was assumed while reading.
    pub notes: Vec<String>,
}

/// How an array of edges lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EdgeLayout {
    /// `[m, 2]`: a row per edge.
    Pairs,
    /// `[2, m]`: a row of sources and one of destinations, as PyG's `edge_index`.
    Rows,
}

/// How edges are to be read.
#[derive(Clone, Debug, Default)]
pub struct EdgeOptions {
    /// Whether vertices are names even where they look like integers.
    pub force_names: bool,
    /// The names of all vertices: then vertices are names.
    pub vertices: Option<Names>,
    /// Columns of the two ends in a text, from 1; without it a line has two columns.
    pub columns: Option<(usize, usize)>,
    /// How an array lies; needed where its shape does not tell.
    pub layout: Option<EdgeLayout>,
    /// How many vertices there are, where that is known.
    pub rows: Option<RowCount>,
}

/// Reads the edges of `path`: a `.npy` array of integers, `[m, 2]` or `[2, m]`; else text, one edge per line. A text's
/// columns are separated as in its first line: by tab, semicolon, comma or white space. `#` and `%` begin comments,
/// gzip is unpacked, `-` is standard input. Ends are integers of 0 or more, also as `3.0` or `"3"`; or names, if both
/// ends of the first line are words and those of the second are, too, or the options say so. A first line of words
/// before integers is a heading.
///
/// # Errors
/// [`DatasetError`] naming file, line and column for all that may be read in more than one way.
pub fn read_edges(path: &Path, options: EdgeOptions, progress: &dyn Fn(u64, u64)) -> Result<EdgeList, DatasetError> {
    read_edges_with(path, options, &Scratch::beside(Path::new("edges")), progress)
}

pub(super) fn read_edges_with(
    path: &Path,
    options: EdgeOptions,
    scratch: &Scratch,
    progress: &dyn Fn(u64, u64),
) -> Result<EdgeList, DatasetError> {
    let input = Input::open(path)?;
    let columns = options.columns;
    let layout = options.layout;
    let mut collector = Collector::new(options);
    if input.kind() == Kind::Npy {
        let name = input.path().display().to_string();
        let (file, header) = open_array(input, scratch)?;
        read_edge_array(&name, file, &header, layout, &mut collector)?;
        return Ok(collector.finish(Vec::new()));
    }
    let lines = Lines::of(input, progress)?;
    let (separator, blank, percent, first, heading) = (None, 0, 0, None, None);
    let mut reader = TextEdges { lines, columns, separator, collector, blank, percent, first, heading };
    reader.read()?;
    let notes = reader.notes();
    let TextEdges { lines, collector, .. } = reader;
    collector.check_greatest().map_err(|(line, what)| lines.error_at(line, what))?;
    Ok(collector.finish(notes))
}

/// The edges of an array that is open; `name` is the array's, for messages.
pub(super) fn collect_array(
    name: &str,
    file: File,
    header: &ForeignHeader,
    options: EdgeOptions,
) -> Result<EdgeList, DatasetError> {
    let layout = options.layout;
    let mut collector = Collector::new(options);
    read_edge_array(name, file, header, layout, &mut collector)?;
    Ok(collector.finish(Vec::new()))
}

/// Gathers edges and knows the greatest id and its place.
pub(super) struct Collector {
    edges: Vec<(u32, u32)>,
    names: Option<Names>,
    rows: Option<RowCount>,
    forced: bool,
    greatest: Option<(u64, u64)>,
}

impl Collector {
    fn new(options: EdgeOptions) -> Self {
        let forced = options.force_names || options.vertices.is_some();
        let names = options.vertices.or_else(|| options.force_names.then(Names::default));
        Self { edges: Vec::new(), names, rows: options.rows, forced, greatest: None }
    }

    /// Whether vertices are names because somebody says so.
    pub(super) fn is_forced(&self) -> bool {
        self.forced
    }

    /// Adds an edge between ids; `place` is its line or row.
    pub(super) fn push_ids(&mut self, a: u64, b: u64, place: u64) -> Result<(), String> {
        if self.forced {
            return self.push_names(&a.to_string(), &b.to_string());
        }
        let max = a.max(b);
        if self.rows.is_some() || max >= u64::from(u32::MAX) {
            check_id(max, self.edges.len() as u64 + 1, self.rows.as_ref())?;
        }
        if max >= u64::from(u32::MAX) {
            return Err(format!("the vertex id {max}: ids of a graph are below {}", u32::MAX));
        }
        if self.greatest.is_none_or(|(greatest, _)| max > greatest) {
            self.greatest = Some((max, place));
        }
        self.edges.push((a as u32, b as u32));
        Ok(())
    }

    pub(super) fn push_names(&mut self, a: &str, b: &str) -> Result<(), String> {
        let names = self.names.get_or_insert_default();
        let edge = (names.id_of(a)?, names.id_of(b)?);
        self.edges.push(edge);
        Ok(())
    }

    /// Fails with its place when the greatest id is out of all proportion. To be asked when all edges are there.
    pub(super) fn check_greatest(&self) -> Result<(), (u64, String)> {
        match self.greatest {
            Some((id, place)) => {
                check_id(id, self.edges.len() as u64, self.rows.as_ref()).map_err(|what| (place, what))
            }
            None => Ok(()),
        }
    }

    /// The names of the first edge, where no other edge has them and no list of names vouches for them.
    fn lonely_first_edge(&self) -> Option<(String, String)> {
        let names = self.names.as_ref().filter(|names| names.source().is_none())?;
        let (&(a, b), rest) = self.edges.split_first().filter(|(_, rest)| !rest.is_empty())?;
        let is_lonely = a != b && rest.iter().all(|edge| ![a, b].contains(&edge.0) && ![a, b].contains(&edge.1));
        let name = |id: u32| names.list().get(id as usize).cloned();
        name(a).zip(name(b)).filter(|_| is_lonely)
    }

    /// Takes the first edge back, whose names have the ids 0 and 1, and no other edge has them.
    fn drop_first_edge(&mut self) {
        self.edges.remove(0);
        for (a, b) in &mut self.edges {
            (*a, *b) = (*a - 2, *b - 2);
        }
        if let Some(names) = &mut self.names {
            names.drop_first(2);
        }
    }

    fn finish(self, notes: Vec<String>) -> EdgeList {
        let vertices = match &self.names {
            Some(names) => names.len(),
            None => self.greatest.map_or(0, |(id, _)| id + 1),
        };
        EdgeList { edges: self.edges, vertices, names: self.names, notes }
    }
}

struct TextEdges<'a> {
    lines: Lines<'a>,
    columns: Option<(usize, usize)>,
    separator: Option<Separator>,
    collector: Collector,
    blank: u64,
    percent: u64,
    /// The first line with an edge or a heading.
    first: Option<u64>,
    heading: Option<u64>,
}

/// What the lines so far say of the vertices.
enum Ends {
    Unknown,
    /// Two words in the first line: names or a heading.
    Words(u64, String, String),
    /// With the line of the heading, where this line is the first below it.
    Integers {
        heading: Option<u64>,
    },
    Names,
}

impl TextEdges<'_> {
    /// Reads all lines.
    fn read(&mut self) -> Result<(), DatasetError> {
        let mut state = if self.collector.is_forced() { Ends::Names } else { Ends::Unknown };
        while self.lines.advance()? {
            let line = self.lines.line();
            if line.trim().is_empty() {
                self.blank += 1;
                continue;
            }
            if line.trim_start().starts_with('%') {
                if self.lines.number() == 1 && line.starts_with("%%MatrixMarket") {
                    return Err(self.lines.error(
                        "a Matrix Market file, whose ids begin at 1 below a line of sizes: write its entries, less 1, as \
                         an edge list",
                    ));
                }
                self.percent += 1;
                continue;
            }
            let separator = *self.separator.get_or_insert_with(|| Separator::of(line));
            let (a, b) = ends(line, separator, self.columns).map_err(|what| self.lines.error(what))?;
            let number = self.lines.number();
            self.first.get_or_insert(number);
            let taken = take(&mut self.collector, state, number, &a, &b);
            state = taken.map_err(|what| self.lines.error(what))?;
            if let (Ends::Integers { heading: Some(line) }, None) = (&state, self.heading) {
                self.heading = Some(*line);
            }
        }
        match state {
            Ends::Words(line, a, b) => Err(self.lines.error_at(
                line,
                format!(
                    "`{a}` and `{b}` in the only line may be a heading or an edge: put `#` before a heading, or say that \
                     vertices are names (--names)"
                ),
            )),
            Ends::Names => self.drop_heading_of_names(),
            _ => Ok(()),
        }
    }

    /// A first line whose words are in no other line is a heading if the words are those of headings, and may be one
    /// else.
    fn drop_heading_of_names(&mut self) -> Result<(), DatasetError> {
        let (Some((a, b)), Some(line)) = (self.collector.lonely_first_edge(), self.first) else { return Ok(()) };
        let is_heading = |name: &str| {
            let plain: String = name.to_lowercase().chars().filter(|c| c.is_alphanumeric()).collect();
            HEADINGS.contains(&plain.as_str())
        };
        if is_heading(&a) && is_heading(&b) {
            self.collector.drop_first_edge();
            self.heading = Some(line);
        } else if !self.collector.is_forced() {
            let what = format!(
                "`{a}` and `{b}` are in no other line and may be a heading: put `#` before a heading, or say that vertices \
                 are names (--names)"
            );
            return Err(self.lines.error_at(line, what));
        }
        Ok(())
    }

    fn notes(&self) -> Vec<String> {
        let path = self.lines.path().display();
        let mut notes = Vec::new();
        if let Some(line) = self.heading {
            notes.push(format!("{path}:{line}: taken as a heading"));
        }
        if let Some((a, b)) = self.columns {
            notes.push(format!("{path}: columns {a} and {b} are the ends of edges; others were not read"));
        }
        let comments = self.lines.comments() + self.percent;
        if comments + self.blank > 0 {
            notes.push(format!("{path}: skipped {comments} comments and {} blank lines", self.blank));
        }
        notes
    }
}

/// Adds the edge of a line, and says what is known of the vertices then.
fn take(collector: &mut Collector, state: Ends, line: u64, a: &str, b: &str) -> Result<Ends, String> {
    Ok(match (state, (Token::of(a), Token::of(b))) {
        (Ends::Names, (Token::Id(_), Token::Id(_))) if !collector.is_forced() => {
            return Err(format!(
                "`{a}` and `{b}` are integers, but the lines before have names: if all are names, say so (--names)"
            ));
        }
        (Ends::Names, _) => {
            collector.push_names(a, b)?;
            Ends::Names
        }
        (state, (Token::Id(a), Token::Id(b))) => {
            collector.push_ids(a, b, line)?;
            match state {
                Ends::Words(heading, ..) => Ends::Integers { heading: Some(heading) },
                _ => Ends::Integers { heading: None },
            }
        }
        (Ends::Unknown, (Token::Word, Token::Word)) => Ends::Words(line, a.to_owned(), b.to_owned()),
        (Ends::Words(_, first, second), (Token::Word, _) | (_, Token::Word)) => {
            collector.push_names(&first, &second)?;
            collector.push_names(a, b)?;
            Ends::Names
        }
        (_, tokens) => return Err(odd(a, b, tokens)),
    })
}

/// What is wrong with ends that are not both ids.
fn odd(a: &str, b: &str, (first, second): (Token, Token)) -> String {
    let is_id = |token| matches!(token, Token::Id(_));
    let (text, token) = if is_id(first) { (b, second) } else { (a, first) };
    let what = match token {
        Token::Negative(_) => "is below 0, and ids are 0 or more",
        Token::Word => "is not an integer, where others are",
        _ => "is not an integer of 0 or more that can be told from its neighbours",
    };
    format!("`{text}` {what}: if the vertices are names, say so (--names)")
}

/// The two ends of the edge in a line.
fn ends(
    line: &str,
    separator: Separator,
    columns: Option<(usize, usize)>,
) -> Result<(Cow<'_, str>, Cow<'_, str>), String> {
    let (mut first, mut second, mut count, mut filled) = (None, None, 0, 0);
    let (at_first, at_second) = columns.unwrap_or((1, 2));
    for column in separator.columns(line) {
        let column = column?;
        count += 1;
        if !column.is_empty() {
            filled = count;
        }
        if count == at_first {
            first = Some(column);
        } else if count == at_second {
            second = Some(column);
        }
    }
    if columns.is_none() && filled > 2 {
        return Err(format!(
            "{filled} columns, separated by {}: an edge has two ends: say which columns hold them (--columns 1,2); \
             weights are not kept",
            separator.name()
        ));
    }
    match (first, second) {
        (Some(a), Some(b)) if !a.is_empty() && !b.is_empty() => Ok((a, b)),
        (Some(_), Some(_)) => Err("an empty column: an edge has two ends".into()),
        _ => Err(format!(
            "{}, separated by {} as in the first line: an edge has two ends",
            if count == 1 { "one column".to_owned() } else { format!("{count} columns") },
            separator.name()
        )),
    }
}
