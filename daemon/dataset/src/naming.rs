//! What tables are called: one rule for all that make datasets. It must never know where rows come from.

/// The vertex type of a graph that names none.
pub const UNNAMED_TYPE: &str = "_N";

/// The name of the table that holds an attribute of a type: `TYPE.ATTRIBUTE`. The attributes of the unnamed vertex type
/// go by their own names, and so does an attribute that has its type before it already.
#[must_use]
pub fn table_name(vertex_type: &str, attribute: &str) -> String {
    let is_whole = attribute.strip_prefix(vertex_type).is_some_and(|rest| rest.starts_with('.') && rest.len() > 1);
    if vertex_type == UNNAMED_TYPE || is_whole { attribute.to_owned() } else { format!("{vertex_type}.{attribute}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_called_by_type_and_attribute() {
        assert_eq!(table_name("paper", "x"), "paper.x");
        assert_eq!(table_name("paper", "paper.x"), "paper.x");
        assert_eq!(table_name("paper", "papers"), "paper.papers");
        assert_eq!(table_name("paper", "paper."), "paper.paper.");
        assert_eq!(table_name(UNNAMED_TYPE, "x"), "x");
        assert_eq!(table_name("_N:_E:_N", "x"), "_N:_E:_N.x");
    }
}
