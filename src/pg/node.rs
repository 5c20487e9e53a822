//! PostgreSQL's nodes, of which a tag says the type (nodes/nodes.h).

use pgrx::pg_sys::{self, Node, NodeTag};

/// A type of nodes.
///
/// # Safety
/// Nodes with this tag are of this type.
pub unsafe trait Tagged {
    const TAG: NodeTag;
}

macro_rules! tagged {
    ($($node:ident: $tag:ident,)*) => {$(
        // SAFETY: the tag that PostgreSQL's makeNode gives to nodes of this type.
        unsafe impl Tagged for pg_sys::$node {
            const TAG: NodeTag = NodeTag::$tag;
        }
    )*};
}

tagged! {
    OpExpr: T_OpExpr,
    FuncExpr: T_FuncExpr,
    RelabelType: T_RelabelType,
    Var: T_Var,
    Const: T_Const,
    SelectStmt: T_SelectStmt,
    IndexPath: T_IndexPath,
    Agg: T_Agg,
    WindowAgg: T_WindowAgg,
    LimitState: T_LimitState,
    IndexScanState: T_IndexScanState,
    SubqueryScanState: T_SubqueryScanState,
    CustomScanState: T_CustomScanState,
    AppendState: T_AppendState,
    MergeAppendState: T_MergeAppendState,
}

/// A node's tag; None for a null pointer.
///
/// # Safety
/// `node` is null or points to a node.
pub unsafe fn tag<T>(node: *const T) -> Option<NodeTag> {
    // SAFETY: the caller's promise; every node begins with its tag.
    unsafe { node.cast::<Node>().as_ref() }.map(|node| node.type_)
}

/// The node as a `T`, if its tag says that it is one.
///
/// # Safety
/// `node` is null or points to a node, which stays unchanged for 'a.
pub unsafe fn read<'a, T: Tagged>(node: *const impl Sized) -> Option<&'a T> {
    // SAFETY: the caller's promise.
    if unsafe { tag(node) } != Some(T::TAG) {
        return None;
    }
    // SAFETY: the tag, and the caller's promise that it stays.
    unsafe { node.cast::<T>().as_ref() }
}
