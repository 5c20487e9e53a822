//! Function pointers that PostgreSQL or another extension gives us: hooks that were installed before ours, and
//! callbacks. This is the only place that calls such pointers.

use pgrx::pg_sys;

/// Installs a hook of ours, and returns what was there, for ours to call.
///
/// # Safety
/// `hook` is one of PostgreSQL's hooks; called while the library is loaded.
pub unsafe fn install<F>(hook: *mut Option<F>, ours: F) -> Option<F> {
    // SAFETY: the caller's promise; hooks are used on the main thread, which is this one.
    unsafe { hook.replace(Some(ours)) }
}

/// A C function, and the tuple of its arguments.
pub trait Function<Arguments>: Copy {
    type Result;

    /// Calls the next hook in a chain. An error of PostgreSQL's jumps over the calling frames up to whoever called our
    /// own hook, as over those of a hook in C, and keeps all of its fields.
    ///
    /// # Safety
    /// The arguments are what the function expects. No frame between PostgreSQL and this call owns anything.
    unsafe fn call_next(self, arguments: Arguments) -> Self::Result;
}

macro_rules! function {
    ($($argument:ident: $kind:ident),*) => {
        impl<R, $($kind),*> Function<($($kind,)*)> for unsafe extern "C-unwind" fn($($kind),*) -> R {
            type Result = R;

            #[inline]
            #[expect(ffi_unwind_calls, reason = "errors of PostgreSQL may leave through this call")]
            unsafe fn call_next(self, ($($argument,)*): ($($kind,)*)) -> R {
                // SAFETY: the caller's promise.
                unsafe { self($($argument),*) }
            }
        }
    };
}

function!(a: A, b: B);
function!(a: A, b: B, c: C);
function!(a: A, b: B, c: C, d: D);

/// Calls a callback. An error of PostgreSQL's becomes a panic, which unwinds the calling frames.
///
/// # Safety
/// The arguments are what the function expects; called on the main thread.
#[inline]
pub unsafe fn call<Arguments, F: Function<Arguments>>(function: F, arguments: Arguments) -> F::Result {
    // SAFETY: the caller's promise; arguments of C own nothing, and the guard's frame is the one that errors jump to.
    let call = || unsafe { function.call_next(arguments) };
    // SAFETY: on the main thread, by the caller's promise.
    unsafe { pg_sys::ffi::pg_guard_ffi_boundary(call) }
}
