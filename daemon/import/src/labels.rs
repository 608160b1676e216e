//! Reads class labels, one per vertex, with the vertex they belong to. Owns what a line says, and what a label is. It
//! must never invent a class: what is missing is unlabelled (-1), and what may be read in two ways is an error.

use std::collections::BTreeMap;
use std::path::Path;

use hashbrown::HashMap;

use crate::columns::{Separator, Token};
use crate::text::Lines;
use crate::vertices::Names;
use rudder_dataset::DatasetError;

/// The label of a vertex that has none.
pub(super) const UNLABELLED: i64 = -1;

/// Words for a value that is missing, in lower case. Among integers they are; among classes they may be classes.
const MISSING: [&str; 7] = ["nan", "na", "n/a", "null", "none", "-", "?"];

/// A line of the file.
pub(super) struct Row {
    pub(super) line: u64,
    /// The vertex, when the file has two columns.
    pub(super) key: Option<String>,
    /// Place of the label in [`LabelText::words`].
    word: u32,
}

/// Labels as they stand in the file.
pub(super) struct LabelText<'a> {
    lines: Lines<'a>,
    pub(super) rows: Vec<Row>,
    words: Vec<String>,
    word_ids: HashMap<String, u32>,
    /// Blank lines after the last label; without keys, they may be missing labels.
    pub(super) blank_tail: Vec<u64>,
    pub(super) is_keyed: bool,
    pub(super) notes: Vec<String>,
}

/// A label by its text alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Label {
    /// Nothing at all.
    Empty,
    /// A word for nothing.
    Missing,
    Integer(i64),
    /// A number that is no integer, or several.
    Odd,
    Word,
}

impl Label {
    fn of(text: &str) -> Self {
        let mut parts = text.split_whitespace();
        if parts.clone().count() > 1 {
            let is_odd = parts.all(|part| Token::of(part) != Token::Word);
            return if is_odd { Self::Odd } else { Self::Word };
        }
        match Token::of(text) {
            _ if text.is_empty() => Self::Empty,
            Token::Id(id) => i64::try_from(id).map_or(Self::Odd, Self::Integer),
            Token::Negative(number) => Self::Integer(number),
            Token::Number => Self::Odd,
            Token::Word if MISSING.contains(&text.to_lowercase().as_str()) => Self::Missing,
            Token::Word => Self::Word,
        }
    }
}

impl<'a> LabelText<'a> {
    /// Reads a text file with one label per line, or with a vertex and its label. `names` are those of the edges, where
    /// vertices are names: they tell two words from a vertex and its label where only white space separates.
    pub(super) fn read(
        path: &Path,
        names: Option<&Names>,
        progress: &'a dyn Fn(u64, u64),
    ) -> Result<Self, DatasetError> {
        let mut text = Self {
            lines: Lines::open(path, progress)?,
            rows: Vec::new(),
            words: Vec::new(),
            word_ids: HashMap::new(),
            blank_tail: Vec::new(),
            is_keyed: false,
            notes: Vec::new(),
        };
        // The first two lines decide between one column and two: the first may be a heading.
        let mut first: Option<(u64, String)> = None;
        let mut separator: Option<Option<Separator>> = None;
        while text.lines.advance()? {
            let (number, line) = (text.lines.number(), text.lines.line().to_owned());
            match (separator, first.take()) {
                (Some(separator), _) => text.add(number, &line, separator)?,
                (None, None) if line.trim().is_empty() => text.add(number, "", None)?,
                (None, None) => first = Some((number, line)),
                (None, Some((first_number, first_line))) => {
                    let found = separator_of(&first_line, Some(&line), names);
                    separator = Some(found);
                    text.add(first_number, &first_line, found)?;
                    text.add(number, &line, found)?;
                }
            }
        }
        if let Some((number, line)) = first {
            let found = separator_of(&line, None, names);
            separator = Some(found);
            text.add(number, &line, found)?;
        }
        text.is_keyed = separator.flatten().is_some();
        if text.is_keyed {
            // Blank lines before the first one with columns.
            text.rows.retain(|row| row.key.is_some());
            text.blank_tail.clear();
        }
        if text.lines.comments() > 0 {
            text.notes.push(format!("{}: skipped {} comments", path.display(), text.lines.comments()));
        }
        Ok(text)
    }

    fn add(&mut self, line: u64, text: &str, separator: Option<Separator>) -> Result<(), DatasetError> {
        let Some(separator) = separator else {
            if text.trim().is_empty() {
                self.blank_tail.push(line);
                return Ok(());
            }
            for blank in std::mem::take(&mut self.blank_tail) {
                self.push(blank, None, "");
            }
            let label = text.trim();
            let label = label.strip_prefix('"').and_then(|label| label.strip_suffix('"')).unwrap_or(label);
            self.push(line, None, label);
            return Ok(());
        };
        if text.trim().is_empty() {
            return Ok(());
        }
        let columns: Result<Vec<_>, _> = separator.columns(text).collect();
        match columns.as_deref() {
            Ok([key, label]) => {
                self.push(line, Some(key), label);
                Ok(())
            }
            Ok(columns) => Err(self.lines.error_at(
                line,
                format!(
                    "the first line has two columns (vertex and label, separated by {}), this one has {}",
                    separator.name(),
                    columns.len()
                ),
            )),
            Err(what) => Err(self.lines.error_at(line, *what)),
        }
    }

    fn push(&mut self, line: u64, key: Option<&str>, label: &str) {
        let next = self.words.len() as u32;
        let word = *self.word_ids.entry_ref(label).or_insert(next);
        if word == next {
            self.words.push(label.to_owned());
        }
        self.rows.push(Row { line, key: key.map(str::to_owned), word });
    }

    /// An error about a row.
    pub(super) fn error(&self, row: &Row, what: impl Into<String>) -> DatasetError {
        self.lines.error_at(row.line, what)
    }

    pub(super) fn path(&self) -> &Path {
        self.lines.path()
    }

    fn label(&self, row: &Row) -> Label {
        Label::of(&self.words[row.word as usize])
    }

    /// Takes the first line for a heading.
    pub(super) fn drop_heading(&mut self) {
        if !self.rows.is_empty() {
            let heading = self.rows.remove(0);
            self.notes.push(format!("{}:{}: taken as a heading", self.path().display(), heading.line));
        }
    }

    /// Whether the label of the first line is a word above integers.
    pub(super) fn is_first_label_odd(&self) -> bool {
        let [first, rest @ ..] = self.rows.as_slice() else { return false };
        // Each distinct word is looked at once, however many lines there are.
        let mut is_used = vec![false; self.words.len()];
        rest.iter().for_each(|row| is_used[row.word as usize] = true);
        let labels = self.words.iter().zip(is_used).filter(|(_, is_used)| *is_used).map(|(word, _)| Label::of(word));
        let (mut integers, mut others) = (0, 0);
        for label in labels {
            match label {
                Label::Integer(_) => integers += 1,
                Label::Empty | Label::Missing => {}
                Label::Odd | Label::Word => others += 1,
            }
        }
        self.label(first) == Label::Word && integers > 0 && others == 0
    }

    /// Whether no other line has the label of the first.
    pub(super) fn is_first_label_unique(&self) -> bool {
        let [first, rest @ ..] = self.rows.as_slice() else { return false };
        rest.iter().all(|row| row.word != first.word)
    }

    /// Blank lines at the end become missing labels, as many as `rows` vertices need.
    pub(super) fn take_blank_tail(&mut self, rows: u64) {
        let missing = rows.saturating_sub(self.rows.len() as u64);
        if missing <= self.blank_tail.len() as u64 {
            for line in std::mem::take(&mut self.blank_tail).into_iter().take(missing as usize) {
                self.push(line, None, "");
            }
        }
    }

    /// The number of each row's label, and the names of the classes where labels are names. Integers stay; names get
    /// numbers in alphabetical order. With `force_classes`, integers are names, too.
    ///
    /// # Errors
    /// [`DatasetError`] naming line and label when it may be read in two ways.
    pub(super) fn values(&self, force_classes: bool) -> Result<(Vec<i64>, Option<Vec<String>>), DatasetError> {
        let mut is_used = vec![false; self.words.len()];
        self.rows.iter().for_each(|row| is_used[row.word as usize] = true);
        let kinds: Vec<Label> = self
            .words
            .iter()
            .map(|word| match Label::of(word) {
                Label::Empty => Label::Empty,
                _ if force_classes => Label::Word,
                label => label,
            })
            .collect();
        let is_names = self.check_kinds(&kinds)?;
        let mut classes: BTreeMap<&str, i64> = BTreeMap::new();
        for ((word, kind), is_used) in self.words.iter().zip(&kinds).zip(is_used) {
            if is_used && *kind == Label::Word {
                classes.insert(word, 0);
            }
        }
        for (place, value) in (0..).zip(classes.values_mut()) {
            *value = place;
        }
        let numbers: Vec<i64> = self
            .words
            .iter()
            .zip(&kinds)
            .map(|(word, kind)| match kind {
                Label::Integer(number) => *number,
                _ => classes.get(word.as_str()).copied().unwrap_or(UNLABELLED),
            })
            .collect();
        let values = self.rows.iter().map(|row| numbers[row.word as usize]).collect();
        let names = is_names.then(|| classes.into_keys().map(str::to_owned).collect());
        Ok((values, names))
    }

    /// Whether labels are names; fails when they are neither names nor integers. `kinds` has one entry per word.
    fn check_kinds(&self, kinds: &[Label]) -> Result<bool, DatasetError> {
        let first = |wanted: fn(Label) -> bool| self.rows.iter().find(|row| wanted(kinds[row.word as usize]));
        let word = |row: &Row| &self.words[row.word as usize];
        let way_out = "if labels are names of classes, say so (--classes)";
        if let Some(row) = first(|label| label == Label::Odd) {
            let word = word(row);
            return Err(self.error(row, format!("the label `{word}` is not an integer: {way_out}")));
        }
        let (integer, name) = (first(|label| matches!(label, Label::Integer(_))), first(|label| label == Label::Word));
        if let (Some(integer), Some(name)) = (integer, name) {
            let (odd, other) = if integer.line < name.line { (name, integer) } else { (integer, name) };
            let is = if odd.line == name.line { "is not an integer" } else { "is an integer" };
            let (label, other, line) = (word(odd), word(other), other.line);
            return Err(self.error(
                odd,
                format!(
                    "the label `{label}` {is}, unlike `{other}` in line {line}: {way_out}, and put `#` before a heading"
                ),
            ));
        }
        if let (Some(missing), Some(_)) = (first(|label| label == Label::Missing), name) {
            let word = word(missing);
            return Err(self.error(
                missing,
                format!("the label `{word}` may be a class or a missing label: leave it empty, or say --classes"),
            ));
        }
        Ok(name.is_some())
    }
}

/// What separates vertex and label; `None` when lines hold a label only.
fn separator_of(first: &str, second: Option<&str>, names: Option<&Names>) -> Option<Separator> {
    let separator = Separator::of(first);
    if separator != Separator::Blank {
        return Some(separator);
    }
    let has_key = |line: &str| {
        let columns: Vec<_> = separator.columns(line).flatten().collect();
        let [key, _] = columns.as_slice() else { return false };
        match names {
            // All vertices are listed: a label may stand alone, in the order of that list.
            Some(names) if names.source().is_some() => names.get(key).is_some(),
            Some(_) => true,
            None => matches!(Token::of(key), Token::Id(_) | Token::Negative(_)),
        }
    };
    (has_key(first) || second.is_some_and(has_key)).then_some(separator)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_by_their_text() {
        let cases = [
            ("7", Label::Integer(7)),
            ("7.0", Label::Integer(7)),
            ("7.000000000000000000e+00", Label::Integer(7)),
            ("-1", Label::Integer(-1)),
            ("-5.0", Label::Integer(-5)),
            ("", Label::Empty),
            ("NaN", Label::Missing),
            ("N/A", Label::Missing),
            ("None", Label::Missing),
            ("0.5", Label::Odd),
            ("7,0", Label::Odd),
            ("0 7 9", Label::Odd),
            ("99999999999999999999", Label::Odd),
            ("spam", Label::Word),
            ("2D", Label::Word),
            ("Computer Science", Label::Word),
            ("3 idiots", Label::Word),
        ];
        for (text, expected) in cases {
            assert_eq!(Label::of(text), expected, "{text:?}");
        }
    }
}
