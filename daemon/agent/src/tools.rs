//! The tools that steer a running cache: what may be asked, and what comes back, in numbers. Operators, trainers and
//! agents use these same types by HTTP, by socket and by command line; the fetch path carries them out. It owns the
//! names and the bounds of arguments, and must never know how a cache works.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Largest factor of `grow`.
pub const FACTOR_MAX: f64 = 1e6;

/// Largest age of `refresh`, in seconds: some thirty years.
pub const AGE_MAX_S: f64 = 1e9;

/// One tool call, as JSON: `{"tool": "grow", "factor": 1.5}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "tool", rename_all = "lowercase", deny_unknown_fields)]
pub enum ToolCall {
    /// Changes the capacity.
    Grow(Grow),
    /// Turns cold residents over in favour of hotter absent rows.
    Evict(Evict),
    /// Revalidates cached rows against their owners.
    Refresh(Refresh),
    /// Brings rows in that will be asked for.
    Warm(Warm),
    /// Does nothing.
    Hold(Hold),
}

/// Changes how many rows the cache may hold, by `rows` or `factor`; new slots fill with the hottest absent rows.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Grow {
    /// Rows to hold from now on. Fewer than now shrinks the cache.
    pub rows: Option<u64>,
    /// Times the present capacity, above 0. Below 1 shrinks the cache.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = FACTOR_MAX))]
    pub factor: Option<f64>,
    /// The table; all cached tables if it is not named.
    pub table: Option<String>,
}

/// Turns the coldest residents of the cache over in favour of absent rows that are hotter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Evict {
    /// Largest share of the residents that may be turned over, above 0 and at most 1.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 1))]
    pub fraction: f64,
    /// Drops what was learned of the accesses first: they have changed.
    #[serde(default)]
    pub forget: bool,
    /// The table; all cached tables if it is not named.
    #[serde(default)]
    pub table: Option<String>,
}

/// Holds cached rows against their owners and pulls those again that have changed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Refresh {
    /// Only rows that were not revalidated for so long, in seconds; 0 for all.
    #[schemars(range(min = 0, max = AGE_MAX_S))]
    pub max_age_s: Option<f64>,
    /// The table; all cached tables if it is not named.
    pub table: Option<String>,
}

/// Brings rows in that will be asked for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Warm {
    /// The table.
    pub table: String,
    /// Ids of its rows, local ones and duplicates allowed.
    pub ids: Vec<u64>,
    /// Which numbers the ids are, where the import renumbered vertices; the original ids if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ids_are: Option<IdsAre>,
}

/// Which numbers ids are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum IdsAre {
    /// Those that vertices have in their source.
    #[default]
    Original,
    /// Those that the import gave.
    Dataset,
}

/// Does nothing: the cache is as it should be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hold {}

/// The description of a tool for its callers, generated from the type of its arguments.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ToolSchema {
    /// The tool.
    pub name: &'static str,
    /// What it does.
    pub description: String,
    /// JSON schema of its arguments.
    pub arguments: serde_json::Value,
}

impl ToolSchema {
    fn of<Arguments: JsonSchema>(name: &'static str) -> Self {
        let mut schema = schemars::schema_for!(Arguments);
        let text = |value: Option<serde_json::Value>| value.and_then(|value| value.as_str().map(str::to_owned));
        let description = text(schema.remove("description")).unwrap_or_default();
        schema.remove("title");
        schema.remove("$schema");
        Self { name, description, arguments: schema.to_value() }
    }
}

/// Why a tool call was not carried out.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ToolError {
    /// It cannot be read.
    #[error("not a tool call: {0}; expected for example {{\"tool\": \"grow\", \"factor\": 1.5}}")]
    Unreadable(String),
    /// An argument makes no sense.
    #[error("{tool}: {problem}")]
    Argument {
        /// The tool.
        tool: &'static str,
        /// The argument, its value and what it may be.
        problem: String,
    },
    /// No table of that name is cached.
    #[error("{tool}: table `{table}` is not cached; cached tables: {known}")]
    UnknownTable {
        /// The tool.
        tool: &'static str,
        /// The name.
        table: String,
        /// The names there are.
        known: String,
    },
    /// A file of the dataset cannot be used.
    #[error("{tool}: {problem}")]
    Files {
        /// The tool.
        tool: &'static str,
        /// What is wrong with which file.
        problem: String,
    },
    /// No place is free among the calls in progress.
    #[error(
        "{tool}: {limit} tool calls are in progress already (admin.tool_calls_max): call again when one has ended, or raise the limit"
    )]
    Busy {
        /// The tool.
        tool: &'static str,
        /// Calls at a time.
        limit: usize,
    },
    /// The daemon is starting or stopping.
    #[error("{tool}: {why}")]
    NotServing {
        /// The tool.
        tool: &'static str,
        /// What the daemon is doing.
        why: String,
    },
}

/// What a tool did, per table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolAnswer {
    /// The tool.
    pub tool: String,
    /// One entry per table concerned.
    pub tables: Vec<Done>,
}

/// What a tool did to one table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Done {
    /// `grow`.
    Grow(Grown),
    /// `evict`.
    Evict(Evicted),
    /// `refresh`.
    Refresh(Refreshed),
    /// `warm`.
    Warm(Warmed),
}

/// Rows brought in by a tool call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Brought {
    /// Rows asked of peers, or found on their way.
    pub asked_rows: u64,
    /// Of them, rows that took a slot.
    pub filled_rows: u64,
    /// Of them, rows that were not worth a slot any more when they came, or that did not come.
    pub refused_rows: u64,
    /// Of them, rows that had not come yet when this answer was given; they come without being waited for.
    pub pending_rows: u64,
}

/// What `grow` did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Grown {
    /// The table.
    pub table: String,
    /// Capacity before, in rows.
    pub before_rows: u64,
    /// Capacity now, in rows.
    pub after_rows: u64,
    /// Most rows that the configuration, the table and the memory limit allow now.
    pub ceiling_rows: u64,
    /// What kept the capacity below what was asked for: `ceiling` or `memory`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limited_by: Option<String>,
    /// Rows that lost their slot.
    pub dropped_rows: u64,
    /// The hottest absent rows, brought in for new slots.
    pub brought: Brought,
}

/// What `evict` did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evicted {
    /// The table.
    pub table: String,
    /// Rows that were cached.
    pub resident_rows: u64,
    /// Most rows that might be turned over.
    pub turnover_rows_max: u64,
    /// Rows that lost their slot to a hotter one.
    pub evicted_rows: u64,
    /// Whether history was forgotten.
    pub forgot: bool,
    /// The hotter absent rows, brought in.
    pub brought: Brought,
}

/// What `refresh` did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Refreshed {
    /// The table.
    pub table: String,
    /// Cached rows whose owner was asked.
    pub checked_rows: u64,
    /// Of them, rows that may have changed.
    pub changed_rows: u64,
    /// Of them, rows that were pulled again.
    pub repulled_rows: u64,
    /// Nodes that could not be asked.
    pub unreachable: Vec<u16>,
}

/// What `warm` did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Warmed {
    /// The table.
    pub table: String,
    /// Distinct remote ids among those given.
    pub remote_rows: u64,
    /// Of them, rows that were cached already.
    pub cached_rows: u64,
    /// The others, brought in.
    pub brought: Brought,
}

impl ToolCall {
    /// All tools, with what they do and the JSON schemas of their arguments.
    #[must_use]
    pub fn schemas() -> Vec<ToolSchema> {
        vec![
            ToolSchema::of::<Grow>("grow"),
            ToolSchema::of::<Evict>("evict"),
            ToolSchema::of::<Refresh>("refresh"),
            ToolSchema::of::<Warm>("warm"),
            ToolSchema::of::<Hold>("hold"),
        ]
    }

    /// The same call for this table alone. `warm` names its own.
    #[must_use]
    pub fn for_table(mut self, name: &str) -> Self {
        let table = Some(name.to_owned());
        match &mut self {
            ToolCall::Grow(grow) => grow.table = table,
            ToolCall::Evict(evict) => evict.table = table,
            ToolCall::Refresh(refresh) => refresh.table = table,
            ToolCall::Warm(_) | ToolCall::Hold(_) => {}
        }
        self
    }

    /// Reads a call from JSON and checks its arguments.
    ///
    /// # Errors
    /// [`ToolError::Unreadable`] or [`ToolError::Argument`].
    pub fn parse(text: &str) -> Result<Self, ToolError> {
        let call: ToolCall = serde_json::from_str(text).map_err(|error| ToolError::Unreadable(error.to_string()))?;
        call.checked()
    }

    /// Reads the arguments of the tool of this name from JSON, and checks them.
    ///
    /// # Errors
    /// [`ToolError::Unreadable`] or [`ToolError::Argument`].
    pub fn from_arguments(tool: &str, arguments: serde_json::Value) -> Result<Self, ToolError> {
        let serde_json::Value::Object(mut fields) = arguments else {
            return Err(ToolError::Unreadable(format!("the arguments of {tool} are not a JSON object")));
        };
        if fields.insert("tool".to_owned(), tool.into()).is_some() {
            return Err(ToolError::Unreadable("`tool` is not an argument".to_owned()));
        }
        let call: ToolCall = serde_json::from_value(serde_json::Value::Object(fields))
            .map_err(|error| ToolError::Unreadable(error.to_string()))?;
        call.checked()
    }

    /// The tool's name.
    #[must_use]
    pub fn tool(&self) -> &'static str {
        match self {
            ToolCall::Grow(_) => "grow",
            ToolCall::Evict(_) => "evict",
            ToolCall::Refresh(_) => "refresh",
            ToolCall::Warm(_) => "warm",
            ToolCall::Hold(_) => "hold",
        }
    }

    /// The table it names.
    #[must_use]
    pub fn table(&self) -> Option<&str> {
        match self {
            ToolCall::Grow(Grow { table, .. })
            | ToolCall::Evict(Evict { table, .. })
            | ToolCall::Refresh(Refresh { table, .. }) => table.as_deref(),
            ToolCall::Warm(Warm { table, .. }) => Some(table),
            ToolCall::Hold(_) => None,
        }
    }

    fn checked(self) -> Result<Self, ToolError> {
        let problem = match &self {
            ToolCall::Grow(Grow { rows: Some(_), factor: Some(_), .. } | Grow { rows: None, factor: None, .. }) => {
                Some("it needs either `rows` or `factor`".to_owned())
            }
            ToolCall::Grow(Grow { factor: Some(factor), .. }) if !(*factor > 0.0 && *factor <= FACTOR_MAX) => {
                Some(format!("`factor` is {factor:?}; it must be above 0 and at most {FACTOR_MAX}"))
            }
            ToolCall::Evict(Evict { fraction, .. }) if !(*fraction > 0.0 && *fraction <= 1.0) => {
                Some(format!("`fraction` is {fraction}; it must be above 0 and at most 1"))
            }
            ToolCall::Refresh(Refresh { max_age_s: Some(age), .. }) if !(*age >= 0.0 && *age <= AGE_MAX_S) => {
                Some(format!("`max_age_s` is {age:?}; it must be 0 or more and at most {AGE_MAX_S}"))
            }
            _ => None,
        };
        match problem {
            Some(problem) => Err(ToolError::Argument { tool: self.tool(), problem }),
            None => Ok(self),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_read_and_their_arguments_checked() {
        let call = ToolCall::parse(r#"{"tool": "grow", "factor": 1.5}"#).unwrap();
        assert_eq!(call, ToolCall::Grow(Grow { factor: Some(1.5), ..Grow::default() }));
        assert_eq!(ToolCall::parse(r#"{"tool": "hold"}"#).unwrap().tool(), "hold");
        for (text, culprit) in [
            (r#"{"tool": "grow"}"#, "either `rows` or `factor`"),
            (r#"{"tool": "grow", "rows": 1, "factor": 2}"#, "either `rows` or `factor`"),
            (r#"{"tool": "grow", "rows": -1}"#, "-1"),
            (r#"{"tool": "grow", "factor": 0}"#, "`factor` is 0"),
            (r#"{"tool": "grow", "factor": 1e300}"#, "at most 1000000"),
            (r#"{"tool": "grow", "factor": NaN}"#, "not a tool call"),
            (r#"{"tool": "grow", "factor": 1e999}"#, "not a tool call"),
            (r#"{"tool": "grow", "factro": 2}"#, "factro"),
            (r#"{"tool": "evict"}"#, "fraction"),
            (r#"{"tool": "evict", "fraction": 1.1}"#, "`fraction` is 1.1"),
            (r#"{"tool": "refresh", "max_age_s": -1}"#, "`max_age_s` is -1"),
            (r#"{"tool": "refresh", "max_age_s": 1e300}"#, "at most 1000000000"),
            (r#"{"tool": "hold", "really": true}"#, "really"),
            (r#"{"tool": "format"}"#, "format"),
            ("grow", "not a tool call"),
        ] {
            let error = ToolCall::parse(text).unwrap_err().to_string();
            assert!(error.contains(culprit), "{text}: {error}");
        }
    }

    #[test]
    fn arguments_alone_are_read_for_the_tool_that_is_named() {
        let call = ToolCall::from_arguments("evict", serde_json::json!({"fraction": 0.5, "forget": true})).unwrap();
        assert_eq!(call, ToolCall::Evict(Evict { fraction: 0.5, forget: true, table: None }));
        assert!(ToolCall::from_arguments("evict", serde_json::json!([1])).is_err());
        assert!(ToolCall::from_arguments("evict", serde_json::json!({"tool": "grow"})).is_err());
    }

    #[test]
    fn schemas_come_from_the_types_with_bounds_and_words() {
        let schemas = ToolCall::schemas();
        for schema in &schemas {
            assert_eq!(schema.arguments["type"], "object", "{schema:?}");
            assert_eq!(schema.arguments["additionalProperties"], false, "{schema:?}");
            assert!(schema.description.ends_with('.') && !schema.description.contains('\n'), "{schema:?}");
        }
        assert_eq!(
            schemas.iter().map(|schema| schema.name).collect::<Vec<_>>(),
            ["grow", "evict", "refresh", "warm", "hold"]
        );
        let fraction = &schemas[1].arguments["properties"]["fraction"];
        assert_eq!((&fraction["exclusiveMinimum"], &fraction["maximum"]), (&0.into(), &1.into()));
        assert_eq!(schemas[1].arguments["required"], serde_json::json!(["fraction"]));
        assert_eq!(schemas[0].arguments["properties"]["factor"]["maximum"], FACTOR_MAX);
        assert!(schemas[2].arguments["properties"]["max_age_s"]["description"].as_str().unwrap().contains("seconds"));
    }
}
