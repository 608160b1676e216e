//! Reads class labels, one per vertex, with the vertex they belong to. It must never invent a class: what is missing is
//! unlabelled (-1).

use std::collections::BTreeMap;
use std::path::Path;

use hashbrown::HashMap;

use crate::text::Lines;
use rudder_dataset::DatasetError;

/// The label of a vertex that has none.
pub(super) const UNLABELLED: i64 = -1;

/// Labels as they stand in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    /// The vertex of each line, when the file has two columns.
    pub keys: Option<Vec<String>>,
    /// Label of each line; -1 where it is empty.
    pub values: Vec<i64>,
    /// Names of the classes 0, 1, ... in alphabetical order, when labels are not all integers.
    pub classes: Option<Vec<String>>,
}

/// Reads a text file with one label per line, or with a vertex and its label separated by a tab or a comma; `#` begins
/// a comment, `.gz` is unpacked. Labels are integers, or names if any is not an integer.
///
/// # Errors
/// [`DatasetError`] naming file and line.
pub fn read_labels(path: &Path, progress: &dyn Fn(u64, u64)) -> Result<Labels, DatasetError> {
    let mut lines = Lines::open(path, progress)?;
    let mut separator = None;
    let mut keys = Vec::new();
    // Labels by the order of appearance; each word is kept once.
    let (mut words, mut word_ids, mut indexes) = (Vec::new(), HashMap::<String, u32>::new(), Vec::new());
    while lines.advance()? {
        let line = lines.line();
        // The first line decides between one column and two.
        let separator = *separator.get_or_insert_with(|| ['\t', ','].into_iter().find(|&c| line.contains(c)));
        let word = match separator {
            None => line.trim(),
            Some(separator) => {
                let columns = line.split_once(separator).filter(|(_, label)| !label.contains(separator));
                let Some((key, label)) = columns else {
                    return Err(lines.error("the first line has two columns (vertex and label), this one has not"));
                };
                keys.push(key.trim().to_owned());
                label.trim()
            }
        };
        let next = words.len() as u32;
        let index = *word_ids.entry_ref(word).or_insert(next);
        if index == next {
            words.push(word.to_owned());
        }
        indexes.push(index);
    }
    let (values, classes) = number_words(&words);
    Ok(Labels {
        keys: separator.flatten().map(|_| keys),
        values: indexes.into_iter().map(|index| values[index as usize]).collect(),
        classes,
    })
}

/// The value of each word: the integer it is, or its place among the sorted words when any word is not an integer.
fn number_words(words: &[String]) -> (Vec<i64>, Option<Vec<String>>) {
    let integers: Option<Vec<i64>> =
        words.iter().map(|word| if word.is_empty() { Some(UNLABELLED) } else { word.parse().ok() }).collect();
    if let Some(integers) = integers {
        return (integers, None);
    }
    let mut classes: BTreeMap<&str, i64> =
        words.iter().filter(|word| !word.is_empty()).map(|word| (word.as_str(), 0)).collect();
    for (place, value) in (0..).zip(classes.values_mut()) {
        *value = place;
    }
    let values = words.iter().map(|word| classes.get(word.as_str()).copied().unwrap_or(UNLABELLED)).collect();
    (values, Some(classes.into_keys().map(str::to_owned).collect()))
}
