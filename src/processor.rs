//! Checks that the processor supports x86-64-v3, which the library is compiled for.

/// Raises an error; otherwise the backend would crash with an illegal instruction.
pub fn check() {
    if let Some(missing) = missing_feature() {
        pgrx::ereport!(
            ERROR,
            pgrx::PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!("this processor lacks {missing}, which vekter needs"),
            "vekter is compiled for x86-64-v3: Intel Haswell, AMD Excavator and later."
        );
    }
}

/// Queries the processor itself: `is_x86_feature_detected` is constant for features enabled at compile time.
#[cfg(target_arch = "x86_64")]
fn missing_feature() -> Option<&'static str> {
    use core::arch::x86_64::{__cpuid, __cpuid_count};
    const OSXSAVE_BIT: u32 = 27;
    let basic = __cpuid(1).ecx;
    let has_leaf_7 = __cpuid(0).eax >= 7;
    let extended = if has_leaf_7 { __cpuid_count(7, 0).ebx } else { 0 };
    let amd = __cpuid(0x8000_0001).ecx;
    // x86-64 psABI, table 3.1; OSXSAVE means that the operating system saves the wide registers.
    let features = [
        ("FMA", basic, 12),
        ("MOVBE", basic, 22),
        ("OSXSAVE", basic, OSXSAVE_BIT),
        ("AVX", basic, 28),
        ("F16C", basic, 29),
        ("BMI1", extended, 3),
        ("AVX2", extended, 5),
        ("BMI2", extended, 8),
        ("LZCNT", amd, 5),
    ];
    features.into_iter().find(|(_, register, bit)| register >> bit & 1 == 0).map(|(name, ..)| name)
}

#[cfg(not(target_arch = "x86_64"))]
fn missing_feature() -> Option<&'static str> {
    None
}
