//! Nodes of a plan that is being executed (nodes/execnodes.h).

use std::ptr::NonNull;

use pgrx::pg_sys::{self, NodeTag, PlanState};

use super::list::elements;
use super::node::{self, Tagged};

/// A node with what is below it. It stays for as long as the value is used; only the executor changes it, which does
/// not run while a reference to it is in use.
#[derive(Clone, Copy)]
pub struct PlanNode(NonNull<PlanState>);

impl PlanNode {
    /// None for a null pointer.
    ///
    /// # Safety
    /// `node` is null or a node that the executor has initialised, and lives for as long as the value is used.
    pub unsafe fn new(node: *mut PlanState) -> Option<Self> {
        NonNull::new(node).map(PlanNode)
    }

    pub fn as_ptr(self) -> *mut PlanState {
        self.0.as_ptr()
    }

    fn state(&self) -> &PlanState {
        // SAFETY: alive (contract of `new`).
        unsafe { self.0.as_ref() }
    }

    pub fn tag(self) -> NodeTag {
        self.state().type_
    }

    /// The node as a `T`, if it is one.
    pub fn as_a<T: Tagged>(&self) -> Option<&T> {
        // SAFETY: alive (contract of `new`).
        unsafe { node::read(self.as_ptr()) }
    }

    /// The node's plan as a `T`, if it is one.
    pub fn plan_as<T: Tagged>(&self) -> Option<&T> {
        // SAFETY: a node's plan lives as long as the node, and is only read.
        unsafe { node::read(self.state().plan) }
    }

    /// The planner's estimate of its rows.
    pub fn rows(self) -> f64 {
        // SAFETY: every node has its plan.
        unsafe { &*self.state().plan }.plan_rows
    }

    /// Whether it drops rows that do not pass a filter.
    pub fn has_filter(self) -> bool {
        !self.state().qual.is_null()
    }

    /// Whether it must begin anew before it is asked for rows.
    pub fn has_changed_parameters(self) -> bool {
        !self.state().chgParam.is_null()
    }

    pub fn left(self) -> Option<Self> {
        self.below(self.state().lefttree)
    }

    pub fn right(self) -> Option<Self> {
        self.below(self.state().righttree)
    }

    /// The children of an Append, a MergeAppend, a subquery or a custom scan.
    pub fn children(self) -> Vec<Self> {
        let nodes: Vec<*mut PlanState> = if let Some(append) = self.as_a::<pg_sys::AppendState>() {
            // SAFETY: the array has as many nodes as it says.
            unsafe { core::slice::from_raw_parts(append.appendplans, append.as_nplans as usize) }.to_vec()
        } else if let Some(append) = self.as_a::<pg_sys::MergeAppendState>() {
            // SAFETY: the array has as many nodes as it says.
            unsafe { core::slice::from_raw_parts(append.mergeplans, append.ms_nplans as usize) }.to_vec()
        } else if let Some(subquery) = self.as_a::<pg_sys::SubqueryScanState>() {
            vec![subquery.subplan]
        } else if let Some(scan) = self.as_a::<pg_sys::CustomScanState>() {
            // SAFETY: a list of nodes, which is only read.
            unsafe { elements(scan.custom_ps) }.collect()
        } else {
            Vec::new()
        };
        nodes.into_iter().filter_map(|node| self.below(node)).collect()
    }

    fn below(self, node: *mut PlanState) -> Option<Self> {
        // SAFETY: what is below a node lives as long as the node.
        unsafe { Self::new(node) }
    }
}
