//! The predicate of a partial index, in queries over its table.

#[derive(PartialEq)]
pub struct Predicate(Option<String>);

impl Predicate {
    /// None: the index covers all rows of its table.
    pub fn new(text: Option<String>) -> Self {
        Predicate(text)
    }

    pub fn is_partial(&self) -> bool {
        self.0.is_some()
    }

    /// A condition that is true for the rows that the index covers.
    pub fn condition(&self) -> &str {
        self.0.as_deref().unwrap_or("true")
    }

    /// A condition that is true for covered rows that also satisfy `condition`, which must be parenthesised if
    /// necessary.
    pub fn and(&self, condition: &str) -> String {
        match &self.0 {
            Some(predicate) => format!("({predicate}) AND {condition}"),
            None => condition.to_owned(),
        }
    }

    /// The value of an expression for rows that the index covers, NULL for others.
    pub fn covered(&self, expression: &str) -> String {
        match &self.0 {
            Some(predicate) => format!("CASE WHEN {predicate} THEN {expression} END"),
            None => expression.to_owned(),
        }
    }
}
