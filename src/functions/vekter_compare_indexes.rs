//! `vekter_compare_indexes()`: what several indexes of one column find, and how fast. They can be of other access
//! methods, such as pgvector's.

use std::collections::HashSet;
use std::time::Instant;

use pgrx::prelude::*;
use pgrx::{PgSqlErrorCode as Code, pg_sys};

use super::arguments::row_count;
use super::predicate::Predicate;
use super::target::relation_name;
use super::vekter_recall::{RowId, ids, row_id};
use crate::pg::error::{OrRaise, SqlError};
use crate::pg::text::Text;
use crate::pg::{catalogue, spi, visible_index};

/// An index as the planner compares it: indexes with the same table, value, operator and rows answer the same queries.
#[derive(PartialEq)]
struct Answers {
    table: String,
    value: String,
    operator: String,
    value_type: pg_sys::Oid,
    predicate: Predicate,
}

impl Answers {
    /// A FROM clause with the conditions of the rows that are in the index. Where it is partial, the value of other
    /// rows may be an error.
    fn rows(&self) -> String {
        let is_there = format!("({}) IS NOT NULL", self.predicate.covered(&self.value));
        format!("{} WHERE {}", self.table, self.predicate.and(&is_there))
    }

    /// A query for the rows that are nearest to $1, at most $2; `exactly`: by an order that no index gives.
    fn nearest(&self, exactly: bool) -> String {
        let Answers { value, operator, predicate, .. } = self;
        let order = match exactly {
            true => format!("(({}) {operator} $1) + 0.0", predicate.covered(value)),
            false => format!("({value}) {operator} $1"),
        };
        format!("SELECT tableoid, ctid FROM {} ORDER BY {order} LIMIT $2", self.rows())
    }
}

struct ComparedIndex {
    oid: pg_sys::Oid,
    access_method: String,
    bytes: i64,
    answers: Answers,
}

struct Measured {
    recall: Option<f64>,
    milliseconds: Option<f64>,
}

const DESCRIPTION: &str = r#"
SELECT pg_catalog.format('ONLY %I.%I', n.nspname, t.relname), v.value,
       pg_catalog.format('OPERATOR(%I.%s)', m.nspname, o.oprname), a.atttypid,
       pg_catalog.pg_get_expr(i.indpred, i.indrelid),
       am.amname::text, pg_catalog.pg_relation_size(i.indexrelid)
  FROM pg_catalog.pg_index i
  CROSS JOIN LATERAL (SELECT pg_catalog.pg_get_indexdef(i.indexrelid, 1, false)) v (value)
  JOIN pg_catalog.pg_class t ON t.oid = i.indrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace
  JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid AND c.relkind = 'i'
  JOIN pg_catalog.pg_am am ON am.oid = c.relam
  JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indexrelid AND a.attnum = 1
  JOIN pg_catalog.pg_opclass k ON k.oid = i.indclass[0]
  JOIN pg_catalog.pg_amop s ON s.amopfamily = k.opcfamily AND s.amopstrategy = 1 AND s.amoppurpose = 'o'
   AND s.amoplefttype = k.opcintype AND s.amoprighttype = k.opcintype
  JOIN pg_catalog.pg_operator o ON o.oid = s.amopopr
  JOIN pg_catalog.pg_namespace m ON m.oid = o.oprnamespace
 WHERE i.indexrelid = $1 AND i.indisvalid
"#;

/// Recall, median milliseconds of a query and size of each index. The queries are `sample` rows of the table, which do
/// not count as their own neighbours. Uses the rows visible to the caller, and the session's settings.
#[allow(clippy::type_complexity, reason = "a column each")]
#[pg_extern]
fn vekter_compare_indexes(
    indexes: Vec<pg_sys::Oid>,
    k: i32,
    sample: i32,
) -> TableIterator<
    'static,
    (
        name!(index, pg_sys::Oid),
        name!(access_method, String),
        name!(recall, Option<f64>),
        name!(milliseconds, Option<f64>),
        name!(bytes, i64),
    ),
> {
    let compared = compare(&indexes, k, sample).or_raise().into_iter();
    let row = |(index, measured): (ComparedIndex, Measured)| {
        (index.oid, index.access_method, measured.recall, measured.milliseconds, index.bytes)
    };
    TableIterator::new(compared.map(row).collect::<Vec<_>>())
}

fn compare(indexes: &[pg_sys::Oid], k: i32, sample: i32) -> Result<Vec<(ComparedIndex, Measured)>, SqlError> {
    let (k, sample) = (row_count("k", k)?, row_count("sample", sample)?);
    let indexes = indexes.iter().map(|&index| describe(index)).collect::<Result<Vec<_>, _>>()?;
    let Some(first) = indexes.first() else { return Ok(Vec::new()) };
    if let Some(other) = indexes.iter().find(|index| index.answers != first.answers) {
        let (first, other) = (relation_name(first.oid)?, relation_name(other.oid)?);
        let message = format!("indexes \"{first}\" and \"{other}\" do not answer the same queries");
        return Err(SqlError::new(Code::ERRCODE_INVALID_PARAMETER_VALUE, message)
            .detail("Their tables, columns, operators or conditions differ."));
    }
    let chosen = choose(&first.answers, sample);
    let types = [first.answers.value_type, pg_sys::INT8OID];
    let exact = spi::Plan::prepare(&first.answers.nearest(true), &types);
    let limit = Some(pg_sys::Datum::from(k as i64 + 1));
    let truths: Vec<HashSet<RowId>> =
        chosen.iter().map(|&(own, query)| ids(&exact, &[Some(query), limit], own, k)).collect();
    let measure = |index: &ComparedIndex| {
        // Planned once, while the other indexes are hidden.
        let plan = spi::Plan::prepare_generic(&first.answers.nearest(false), &types);
        let (mut found, mut milliseconds) = (0, Vec::new());
        visible_index::with_only(index.oid, || {
            for (&(own, query), truth) in chosen.iter().zip(&truths) {
                pgrx::check_for_interrupts!();
                let start = Instant::now();
                let answer = ids(&plan, &[Some(query), limit], own, k);
                milliseconds.push(start.elapsed().as_secs_f64() * 1e3);
                found += answer.intersection(truth).count();
            }
        });
        milliseconds.sort_unstable_by(f64::total_cmp);
        let wanted: usize = truths.iter().map(HashSet::len).sum();
        let recall = (wanted > 0).then(|| found as f64 / wanted as f64);
        let median = milliseconds.get(milliseconds.len() / 2).copied();
        Measured { recall, milliseconds: median }
    };
    let measured: Vec<_> = indexes.iter().map(measure).collect();
    Ok(indexes.into_iter().zip(measured).collect())
}

fn describe(index: pg_sys::Oid) -> Result<ComparedIndex, SqlError> {
    let mut found = None;
    catalogue::for_each_row(DESCRIPTION, &[(pg_sys::OIDOID, index.into())], |row| {
        type Order = (Option<Text>, Option<Text>, Option<Text>, Option<pg_sys::Oid>, Option<Text>);
        // SAFETY: the query's first columns are of these types.
        let (table, value, operator, value_type, predicate): Order = unsafe { row.columns() };
        // SAFETY: the query's last columns are of these types.
        let (access_method, bytes): (Option<Text>, Option<_>) = unsafe { row.columns_from(6) };
        let answers = Answers {
            table: table.unwrap_or_default().into_string(),
            value: value.unwrap_or_default().into_string(),
            operator: operator.unwrap_or_default().into_string(),
            value_type: value_type.unwrap_or_default(),
            predicate: Predicate::new(predicate.map(Text::into_string)),
        };
        let access_method = access_method.unwrap_or_default().into_string();
        found = Some(ComparedIndex { oid: index, access_method, bytes: bytes.unwrap_or(0), answers });
    });
    match found {
        Some(found) => Ok(found),
        None => {
            let message = format!("\"{}\" is not a valid index that orders rows", relation_name(index)?);
            Err(SqlError::new(Code::ERRCODE_WRONG_OBJECT_TYPE, message))
        }
    }
}

/// The rows that are asked for their neighbours, with their values in the current memory context.
fn choose(answers: &Answers, sample: usize) -> Vec<(RowId, pg_sys::Datum)> {
    let (rows, value) = (answers.rows(), answers.predicate.covered(&answers.value));
    let query = format!("SELECT tableoid, ctid, {value} FROM {rows} ORDER BY pg_catalog.random() LIMIT $1");
    let mut chosen = Vec::new();
    spi::Plan::prepare(&query, &[pg_sys::INT8OID]).for_each_row(&[Some((sample as i64).into())], |row| {
        chosen.extend(row_id(row).zip(row.kept_datum(3)));
    });
    chosen
}
