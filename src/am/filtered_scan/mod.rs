//! A scan node for what an index scan of the access method cannot do: look at the condition before it searches, follow
//! an order that is not literally the operator's, and stop at a radius.
//!
//! PostgreSQL shows an access method the ORDER BY and nothing else. So where a query has conditions too, this node is
//! offered to the planner beside the index scan (`plan`): it knows its filter, and how PostgreSQL's own indexes would
//! answer it. When it runs (`execute`), it collects as many rows that pass as the LIMIT above it asks for, in whichever
//! way is best then: the nearest of a few rows that a bitmap of those indexes names, or the nearest of all rows, looked
//! at one by one. Rows that are collected are sorted by their exact distances, so an approximate search that finds a
//! near row late loses none.
//!
//! `distance_expression` reads expressions that rise or fall with the distance, and the radius of a condition on one;
//! `order` compares the query's order with them; `plan` makes paths and plans, and `cost` weighs them; `execute` has
//! the callbacks of the node that runs, `run` its search, and `explain` shows it.

mod cost;
mod distance_expression;
mod execute;
mod explain;
mod order;
mod plan;
mod run;

pub use plan::initialise;
