//! Expressions that order rows as a faiss index does: the distance to a vector, and what rises or falls with it.
//!
//! People write `1 - (embedding <=> $1) DESC`, `(embedding <#> $1) * -1 DESC`, `cosine_distance(embedding, $1)`.
//! Rounded arithmetic never reverses the order of its argument, so such an expression is ordered wherever the distance
//! is. A sum is left alone: `(embedding <-> $1) + 0` is how people keep PostgreSQL from using an index.

use pgrx::pg_sys;

use crate::pg::expression::Expression;

/// An index over one expression, as the planner knows it, and the table's place in the query.
#[derive(Clone, Copy)]
pub struct IndexedDistance {
    root: *mut pg_sys::PlannerInfo,
    index: *mut pg_sys::IndexOptInfo,
    /// The distance operator of the index's operator class.
    operator: pg_sys::Oid,
    table: i32,
}

/// An expression that is monotonic in the distance to a vector.
#[derive(Clone, Copy)]
pub struct Monotonic {
    /// The vector.
    pub query: Expression,
    /// Whether it falls as the distance rises.
    pub falls: bool,
    /// Its value by the distance, where that needs constants only.
    pub linear: Option<Linear>,
}

/// `scale * distance + offset`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Linear {
    pub scale: f64,
    pub offset: f64,
}

/// The radius within which a condition holds.
#[derive(Clone, Copy)]
pub struct Radius {
    /// What the expression is compared with.
    pub bound: Expression,
    pub linear: Linear,
}

impl IndexedDistance {
    /// # Safety
    /// Both belong to the query that is being planned, for as long as the value and its results are used; the index is
    /// a faiss index.
    pub unsafe fn new(root: *mut pg_sys::PlannerInfo, index: *mut pg_sys::IndexOptInfo) -> Option<Self> {
        // SAFETY: the caller's promise.
        let about = unsafe { &*index };
        // SAFETY: an index has at least one key column with its operator family.
        let family = unsafe { *about.opfamily };
        // SAFETY: and with its type.
        let of_type = unsafe { *about.opcintype };
        // SAFETY: looks a catalogue row up by its key.
        let operator = unsafe { pg_sys::get_opfamily_member(family, of_type, of_type, 1) };
        // SAFETY: an index has a table.
        let table = unsafe { (*about.rel).relid } as i32;
        (operator != pg_sys::InvalidOid).then_some(IndexedDistance { root, index, operator, table })
    }

    /// `expression` is one of the query that is being planned.
    pub fn monotonic(&self, expression: Expression) -> Option<Monotonic> {
        let function = expression.function()?;
        let is_distance = match expression.as_a::<pg_sys::OpExpr>() {
            Some(operation) => operation.opno == self.operator,
            // SAFETY: looks a catalogue row up by its oid.
            None => function == unsafe { pg_sys::get_opcode(self.operator) },
        };
        match is_distance {
            true => self.distance(expression),
            false => self.arithmetic(function.to_u32(), expression),
        }
    }

    /// `call`: of the distance operator, or of its function.
    fn distance(&self, call: Expression) -> Option<Monotonic> {
        let (a, b) = both_arguments(call)?;
        // A distance is the same from either end.
        let query = match (self.is_indexed(a), self.is_indexed(b)) {
            (true, _) => b,
            (false, true) => a,
            (false, false) => return None,
        };
        let linear = Some(Linear { scale: 1.0, offset: 0.0 });
        self.is_constant(query).then_some(Monotonic { query, falls: false, linear })
    }

    fn is_indexed(&self, expression: Expression) -> bool {
        // SAFETY: an expression and an index of the same query (contract of `new`).
        unsafe { pg_sys::match_index_to_operand(expression.as_ptr(), 0, self.index) }
    }

    /// `call`: of `function`.
    fn arithmetic(&self, function: u32, call: Expression) -> Option<Monotonic> {
        match function {
            pg_sys::F_FLOAT8UM => {
                let inner = self.monotonic(call.arguments().next()?)?;
                return Some(inner.then(-1.0, Some(0.0)));
            }
            pg_sys::F_FLOAT8MI | pg_sys::F_FLOAT8MUL | pg_sys::F_FLOAT8DIV => (),
            _ => return None,
        }
        let (left, right) = both_arguments(call)?;
        let (inner, other, distance_is_left) = match self.monotonic(left) {
            Some(inner) => (inner, right, true),
            None => (self.monotonic(right)?, left, false),
        };
        if !self.is_constant(other) {
            return None;
        }
        let constant = float8(other).filter(|value| value.is_finite());
        match function {
            pg_sys::F_FLOAT8MI if distance_is_left => Some(inner.then(1.0, constant.map(|value| -value))),
            pg_sys::F_FLOAT8MI => Some(inner.then(-1.0, constant)),
            // The sign of a parameter is not known.
            pg_sys::F_FLOAT8MUL => Some(inner.then(constant.filter(|&value| value != 0.0)?, Some(0.0))),
            _ if distance_is_left => {
                Some(inner.then(1.0 / constant.filter(|&value| value != 0.0)?, Some(0.0)))
            }
            _ => None,
        }
    }

    /// The radius that a condition sets around `query`, if it is one. Both are of the query that is being planned.
    pub fn radius(&self, condition: Expression, query: Expression) -> Option<Radius> {
        condition.as_a::<pg_sys::OpExpr>()?;
        let is_less = match condition.function()?.to_u32() {
            pg_sys::F_FLOAT8LT | pg_sys::F_FLOAT8LE => true,
            pg_sys::F_FLOAT8GT | pg_sys::F_FLOAT8GE => false,
            _ => return None,
        };
        let (left, right) = both_arguments(condition)?;
        let (inner, bound, is_upper) = match self.monotonic(left) {
            Some(inner) => (inner, right, is_less),
            None => (self.monotonic(right)?, left, !is_less),
        };
        let linear = inner.linear?;
        let bounds_distance = is_upper != inner.falls && self.is_constant(bound);
        (bounds_distance && inner.query.equals(query)).then_some(Radius { bound, linear })
    }

    /// The same for every row: neither a column of the table nor volatile.
    fn is_constant(&self, expression: Expression) -> bool {
        // SAFETY: an expression of the query (contract of `new`).
        let tables = unsafe { pg_sys::pull_varnos(self.root, expression.as_ptr()) };
        // SAFETY: the set that was just made.
        let is_of_table = unsafe { pg_sys::bms_is_member(self.table, tables) };
        !is_of_table && !expression.is_volatile()
    }
}

fn both_arguments(call: Expression) -> Option<(Expression, Expression)> {
    let mut arguments = call.arguments();
    arguments.next().zip(arguments.next())
}

impl Monotonic {
    /// This expression times `scale` plus `offset`; None: a value that is not known yet.
    fn then(self, scale: f64, offset: Option<f64>) -> Self {
        let linear = self.linear.zip(offset).map(|(inner, offset)| Linear {
            scale: inner.scale * scale,
            offset: inner.offset * scale + offset,
        });
        Monotonic { falls: self.falls != (scale < 0.0), linear, ..self }
    }
}

impl Linear {
    /// The distance at which the expression has this value, or a little more, as the expression may be rounded.
    pub fn distance_at(self, value: f64) -> f64 {
        let distance = (value - self.offset) / self.scale;
        let rounding = (value.abs() + self.offset.abs()) / self.scale.abs() * 4.0 * f64::EPSILON;
        distance + distance.abs() * 4.0 * f64::EPSILON + rounding
    }
}

/// The value of a constant of type float8.
pub fn float8(expression: Expression) -> Option<f64> {
    expression.constant(pg_sys::FLOAT8OID).map(|value| f64::from_bits(value.value() as u64))
}
