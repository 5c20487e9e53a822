//! Expressions of queries and plans (nodes/primnodes.h).

use std::ptr::NonNull;

use pgrx::pg_sys::{self, Node, Oid};

use super::list::elements;
use super::node::{self, Tagged};

/// An expression. It stays, unchanged, for as long as the value is used.
#[derive(Clone, Copy)]
pub struct Expression(NonNull<Node>);

impl Expression {
    /// None for a null pointer.
    ///
    /// # Safety
    /// `node` is null or an expression that stays, unchanged, for as long as the value is used.
    pub unsafe fn new<T>(node: *mut T) -> Option<Self> {
        NonNull::new(node.cast()).map(Expression)
    }

    /// The expressions of a list.
    ///
    /// # Safety
    /// `list` is null or a list of expressions; it and they stay for as long as the values are used.
    pub unsafe fn all(list: *const pg_sys::List) -> impl Iterator<Item = Self> {
        // SAFETY: the caller's promise for the list.
        let nodes = unsafe { elements::<Node>(list) };
        // SAFETY: the caller's promise for its elements.
        nodes.filter_map(|node| unsafe { Self::new(node) })
    }

    pub fn as_ptr(self) -> *mut Node {
        self.0.as_ptr()
    }

    /// The expression as a `T`, if it is one.
    pub fn as_a<T: Tagged>(&self) -> Option<&T> {
        // SAFETY: a node that stays (contract of `new`).
        unsafe { node::read(self.as_ptr()) }
    }

    /// The function that it calls, by its name or as an operator.
    pub fn function(self) -> Option<Oid> {
        match self.as_a::<pg_sys::OpExpr>() {
            // SAFETY: looks a catalogue row up by its oid.
            Some(operation) => Some(unsafe { pg_sys::get_opcode(operation.opno) }),
            None => self.as_a::<pg_sys::FuncExpr>().map(|call| call.funcid),
        }
    }

    /// The arguments of an operator or a function; none of anything else.
    pub fn arguments(self) -> impl Iterator<Item = Self> {
        let of_operator = self.as_a().map(|operation: &pg_sys::OpExpr| operation.args);
        let arguments = of_operator.or_else(|| self.as_a().map(|call: &pg_sys::FuncExpr| call.args));
        // SAFETY: they belong to the expression, which stays (contract of `new`).
        unsafe { Self::all(arguments.unwrap_or(core::ptr::null_mut())) }
    }

    /// The value of a constant of this type, if it is one and not NULL.
    pub fn constant(self, of_type: Oid) -> Option<pg_sys::Datum> {
        let constant = self.as_a::<pg_sys::Const>()?;
        (!constant.constisnull && constant.consttype == of_type).then_some(constant.constvalue)
    }

    /// The type modifier of its value; -1 if it has none.
    pub fn typmod(self) -> i32 {
        // SAFETY: an expression (contract of `new`).
        unsafe { pg_sys::exprTypmod(self.as_ptr()) }
    }

    pub fn is_volatile(self) -> bool {
        // SAFETY: an expression (contract of `new`).
        unsafe { pg_sys::contain_volatile_functions(self.as_ptr()) }
    }

    /// PostgreSQL's `equal`: whether both mean the same.
    pub fn equals(self, other: Self) -> bool {
        // SAFETY: two expressions (contract of `new`).
        unsafe { pg_sys::equal(self.as_ptr().cast(), other.as_ptr().cast()) }
    }
}
