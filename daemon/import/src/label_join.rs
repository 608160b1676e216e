//! Finds the vertex of each label. It must never give a label to a vertex that the file does not clearly mean.

use crate::columns::Token;
use crate::labels::{LabelText, Row, UNLABELLED};
use crate::vertices::{Names, RowCount, check_id};
use rudder_dataset::DatasetError;

/// Labels by original id.
pub(super) struct Joined {
    pub(super) values: Vec<i64>,
    /// Names of the classes, where labels are names.
    pub(super) classes: Option<Vec<String>>,
    /// Names of vertices that the file lists in the order of ids.
    pub(super) vertex_names: Option<Vec<String>>,
    /// Whether the file has a line for every vertex.
    pub(super) names_all: bool,
    pub(super) notes: Vec<String>,
}

/// What the first column holds.
enum Keys {
    /// Lines are in the order of ids.
    None,
    Ids,
    /// Names of vertices whose edges have ids: lines are in the order of ids, too.
    NamesByLine,
    Names,
}

/// What is known of the vertices before labels are joined.
pub(super) struct Vertices<'a> {
    /// Names, where the edges have names.
    pub(super) names: Option<&'a mut Names>,
    /// How many there are, where somebody says so.
    pub(super) rows: Option<&'a RowCount>,
    /// How many the edges name.
    pub(super) named: u64,
    pub(super) edges: &'a mut [(u32, u32)],
}

/// Gives each vertex its label. Names of vertices that only the labels know become vertices, and all names get the
/// order of the labels, unless a file lists them.
pub(super) fn join(
    mut text: LabelText<'_>,
    vertices: Vertices<'_>,
    force_classes: bool,
) -> Result<Joined, DatasetError> {
    let keys = keys_of(&mut text, vertices.names.as_deref(), force_classes)?;
    let (slots, rows, vertex_names) = match keys {
        Keys::None | Keys::NamesByLine => by_line(&mut text, &vertices)?,
        Keys::Ids => by_id(&text, &vertices)?,
        Keys::Names => by_name(&text, vertices)?,
    };
    let (values, classes) = text.values(force_classes)?;
    let mut assigned = vec![UNLABELLED; rows as usize];
    let mut is_taken = vec![false; rows as usize];
    for ((row, &slot), &value) in text.rows.iter().zip(&slots).zip(&values) {
        if std::mem::replace(&mut is_taken[slot as usize], true) {
            let key = row.key.as_deref().unwrap_or_default();
            return Err(text.error(row, format!("the vertex `{key}` is there twice")));
        }
        assigned[slot as usize] = value;
    }
    let path = text.path().display().to_string();
    let mut notes = std::mem::take(&mut text.notes);
    let joined = match keys {
        Keys::None => "line by line, in the order of ids",
        Keys::NamesByLine => "line by line, in the order of ids; its first column names the vertices",
        Keys::Ids => "by id",
        Keys::Names => "by name",
    };
    notes.push(format!("{path}: labels joined to vertices {joined}"));
    let unlabelled = assigned.iter().filter(|&&label| label == UNLABELLED).count();
    if unlabelled > 0 {
        notes.push(format!("{path}: {unlabelled} of {rows} vertices have no label (-1)"));
    }
    if let Some(classes) = &classes {
        let last = classes.len().saturating_sub(1);
        notes.push(format!("{path}: {} names of classes numbered 0 to {last} in alphabetical order", classes.len()));
    }
    let names_all = is_taken.iter().all(|&is_taken| is_taken);
    Ok(Joined { values: assigned, classes, vertex_names, names_all, notes })
}

/// What the first column is; a heading is dropped.
fn keys_of(text: &mut LabelText<'_>, names: Option<&Names>, force_classes: bool) -> Result<Keys, DatasetError> {
    if !text.is_keyed {
        if !force_classes && text.is_first_label_odd() {
            text.drop_heading();
        }
        return match names {
            Some(names) if names.source().is_none() => Err(DatasetError::Input(format!(
                "{}: the vertices have names: each line needs the vertex, a tab or comma, and its label",
                text.path().display()
            ))),
            _ => Ok(Keys::None),
        };
    }
    let Some(names) = names else { return keys_of_ids(text) };
    let Some(first) = text.rows.first() else { return Ok(Keys::Names) };
    let key = first.key.as_deref().unwrap_or_default();
    if names.get(key).is_none() {
        if key.is_empty() || !force_classes && text.is_first_label_odd() {
            text.drop_heading();
        } else if names.source().is_none() && text.rows.len() > 1 && text.is_first_label_unique() {
            let what = format!(
                "`{key}` is in no edge, and no other line has its label: put `#` before a heading; for a vertex without \
                 edges, list all vertices (--vertices)"
            );
            return Err(text.error(first, what));
        }
    }
    Ok(Keys::Names)
}

/// The first column beside edges between ids.
fn keys_of_ids(text: &mut LabelText<'_>) -> Result<Keys, DatasetError> {
    let token = |row: &Row| Token::of(row.key.as_deref().unwrap_or_default());
    let is_word = |row: &&Row| token(row) == Token::Word;
    let words = text.rows.iter().filter(is_word).count();
    let is_first_word = text.rows.first().is_some_and(|row| is_word(&row));
    if words == 1 && is_first_word && text.rows.len() > 1 {
        text.drop_heading();
    } else if 2 * words > text.rows.len() {
        return Ok(Keys::NamesByLine);
    }
    let odd = text.rows.iter().find(|row| !matches!(token(row), Token::Id(_)));
    match odd {
        None => Ok(Keys::Ids),
        Some(row) => {
            let key = row.key.as_deref().unwrap_or_default();
            Err(text.error(row, format!("the vertex `{key}` is not an id of 0 or more, as those of the edges are")))
        }
    }
}

/// The vertex of each row, how many vertices there are, and their names.
type Slots = (Vec<u64>, u64, Option<Vec<String>>);

fn by_line(text: &mut LabelText<'_>, vertices: &Vertices<'_>) -> Result<Slots, DatasetError> {
    let (rows, by) = match vertices.rows {
        Some(count) => (count.rows, count.by.clone()),
        None => (vertices.named, "the edges".to_owned()),
    };
    text.take_blank_tail(rows);
    let found = text.rows.len() as u64;
    if found != rows {
        return Err(DatasetError::Input(format!(
            "{}: {found} labels for the {rows} vertices of {by}, and without ids each vertex needs a line: if the first line \
             is a heading, put `#` before it; if there are vertices without edges, give the number of all (--vertices \
             {found})",
            text.path().display()
        )));
    }
    let mut names = Vec::new();
    let mut seen = hashbrown::HashSet::new();
    for row in &text.rows {
        let Some(key) = row.key.as_deref() else { continue };
        if !seen.insert(key) {
            return Err(text.error(row, format!("the vertex `{key}` is there twice")));
        }
        names.push(key.to_owned());
    }
    Ok(((0..rows).collect(), rows, (!names.is_empty()).then_some(names)))
}

fn by_id(text: &LabelText<'_>, vertices: &Vertices<'_>) -> Result<Slots, DatasetError> {
    let mut slots = Vec::with_capacity(text.rows.len());
    let mut rows = vertices.rows.map_or(vertices.named, |count| count.rows);
    for row in &text.rows {
        let Token::Id(id) = Token::of(row.key.as_deref().unwrap_or_default()) else { continue };
        check_id(id, vertices.edges.len() as u64, vertices.rows).map_err(|what| text.error(row, what))?;
        rows = rows.max(id + 1);
        slots.push(id);
    }
    Ok((slots, rows, None))
}

fn by_name(text: &LabelText<'_>, vertices: Vertices<'_>) -> Result<Slots, DatasetError> {
    let Some(names) = vertices.names else { return Ok((Vec::new(), 0, None)) };
    let keys = || text.rows.iter().map(|row| row.key.as_deref().unwrap_or_default());
    if names.source().is_none() {
        let moved = names
            .put_first(keys())
            .map_err(|what| DatasetError::Input(format!("{}: {what}", text.path().display())))?;
        for (a, b) in vertices.edges {
            (*a, *b) = (moved[*a as usize], moved[*b as usize]);
        }
    }
    let mut slots = Vec::with_capacity(text.rows.len());
    for (row, key) in text.rows.iter().zip(keys()) {
        slots.push(u64::from(names.id_of(key).map_err(|what| text.error(row, what))?));
    }
    Ok((slots, names.len(), None))
}
