//! Expressions that order rows as a faiss index does: the distance to a vector, and what rises or falls with it.
//!
//! People write `1 - (embedding <=> $1) DESC`, `(embedding <#> $1) * -1 DESC`, `cosine_distance(embedding, $1)`.
//! Rounded arithmetic never reverses the order of its argument, so such an expression is ordered wherever the distance
//! is. A sum is left alone: `(embedding <-> $1) + 0` is how people keep PostgreSQL from using an index.

use pgrx::pg_sys::{self, NodeTag};

use crate::pg::list::element;

/// An index over one expression, as the planner knows it, and the table's place in the query.
#[derive(Clone, Copy)]
pub struct IndexedDistance {
    root: *mut pg_sys::PlannerInfo,
    index: *mut pg_sys::IndexOptInfo,
    /// The distance operator of the index's operator class.
    operator: pg_sys::Oid,
}

/// An expression that is monotonic in the distance to a vector.
#[derive(Clone, Copy)]
pub struct Monotonic {
    /// The vector.
    pub query: *mut pg_sys::Node,
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
    pub bound: *mut pg_sys::Node,
    pub linear: Linear,
}

impl IndexedDistance {
    /// # Safety
    /// Both belong to the query that is being planned; the index is a faiss index.
    pub unsafe fn new(root: *mut pg_sys::PlannerInfo, index: *mut pg_sys::IndexOptInfo) -> Option<Self> {
        // SAFETY: an index has at least one key column with its operator family and type.
        let operator = unsafe {
            let (family, of_type) = (*(*index).opfamily, *(*index).opcintype);
            pg_sys::get_opfamily_member(family, of_type, of_type, 1)
        };
        (operator != pg_sys::InvalidOid).then_some(IndexedDistance { root, index, operator })
    }

    /// # Safety
    /// `node` is an expression of the query that is being planned.
    pub unsafe fn monotonic(&self, node: *mut pg_sys::Node) -> Option<Monotonic> {
        // SAFETY: the tag says what a node is.
        unsafe {
            let (function, arguments) = match (*node).type_ {
                NodeTag::T_OpExpr => {
                    let operation: *mut pg_sys::OpExpr = node.cast();
                    if (*operation).opno == self.operator {
                        return self.distance((*operation).args);
                    }
                    (pg_sys::get_opcode((*operation).opno), (*operation).args)
                }
                NodeTag::T_FuncExpr => {
                    let call: *mut pg_sys::FuncExpr = node.cast();
                    if (*call).funcid == pg_sys::get_opcode(self.operator) {
                        return self.distance((*call).args);
                    }
                    ((*call).funcid, (*call).args)
                }
                _ => return None,
            };
            self.arithmetic(function, arguments)
        }
    }

    /// # Safety
    /// `arguments` are those of a distance operator or its function.
    unsafe fn distance(&self, arguments: *mut pg_sys::List) -> Option<Monotonic> {
        // SAFETY: a distance has two arguments.
        let (a, b): (*mut pg_sys::Node, *mut pg_sys::Node) =
            unsafe { (element(arguments, 0), element(arguments, 1)) };
        // SAFETY: the caller's promise. A distance is the same from either end.
        let query = unsafe {
            if pg_sys::match_index_to_operand(a, 0, self.index) {
                b
            } else if pg_sys::match_index_to_operand(b, 0, self.index) {
                a
            } else {
                return None;
            }
        };
        // SAFETY: as above.
        unsafe { self.is_constant(query) }.then_some(Monotonic {
            query,
            falls: false,
            linear: Some(Linear { scale: 1.0, offset: 0.0 }),
        })
    }

    /// # Safety
    /// `arguments` are those of a call of `function`.
    unsafe fn arithmetic(&self, function: pg_sys::Oid, arguments: *mut pg_sys::List) -> Option<Monotonic> {
        // SAFETY: these functions have one or two arguments.
        unsafe {
            let argument = |at| -> *mut pg_sys::Node { element(arguments, at) };
            let function = function.to_u32();
            match function {
                pg_sys::F_FLOAT8UM => {
                    return self.monotonic(argument(0)).map(|inner| inner.then(-1.0, Some(0.0)));
                }
                pg_sys::F_FLOAT8MI | pg_sys::F_FLOAT8MUL | pg_sys::F_FLOAT8DIV => (),
                _ => return None,
            }
            let (left, right) = (argument(0), argument(1));
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
    }

    /// The radius that a condition sets around `query`, if it is one.
    ///
    /// # Safety
    /// `condition` and `query` are expressions of the query that is being planned.
    pub unsafe fn radius(&self, condition: *mut pg_sys::Node, query: *mut pg_sys::Node) -> Option<Radius> {
        // SAFETY: the tag says what a node is; a comparison has two arguments.
        unsafe {
            if (*condition).type_ != NodeTag::T_OpExpr {
                return None;
            }
            let comparison: *mut pg_sys::OpExpr = condition.cast();
            let is_less = match pg_sys::get_opcode((*comparison).opno).to_u32() {
                pg_sys::F_FLOAT8LT | pg_sys::F_FLOAT8LE => true,
                pg_sys::F_FLOAT8GT | pg_sys::F_FLOAT8GE => false,
                _ => return None,
            };
            let argument = |at| -> *mut pg_sys::Node { element((*comparison).args, at) };
            let (left, right) = (argument(0), argument(1));
            let (inner, bound, is_upper) = match self.monotonic(left) {
                Some(inner) => (inner, right, is_less),
                None => (self.monotonic(right)?, left, !is_less),
            };
            let linear = inner.linear?;
            let bounds_distance = is_upper != inner.falls && self.is_constant(bound);
            (bounds_distance && pg_sys::equal(inner.query.cast(), query.cast()))
                .then_some(Radius { bound, linear })
        }
    }

    /// The same for every row: neither a column of the table nor volatile.
    ///
    /// # Safety
    /// `node` is an expression of the query that is being planned.
    pub unsafe fn is_constant(&self, node: *mut pg_sys::Node) -> bool {
        // SAFETY: the caller's promise.
        unsafe {
            let table = (*(*self.index).rel).relid as i32;
            !pg_sys::bms_is_member(table, pg_sys::pull_varnos(self.root, node))
                && !pg_sys::contain_volatile_functions(node)
        }
    }
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
///
/// # Safety
/// `node` is an expression.
pub unsafe fn float8(node: *mut pg_sys::Node) -> Option<f64> {
    // SAFETY: the tag and the type say what the value is.
    unsafe {
        let constant: *mut pg_sys::Const = node.cast();
        let is_value = (*node).type_ == NodeTag::T_Const
            && !(*constant).constisnull
            && (*constant).consttype == pg_sys::FLOAT8OID;
        is_value.then(|| f64::from_bits((*constant).constvalue.value() as u64))
    }
}
