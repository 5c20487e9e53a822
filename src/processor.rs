//! Checks that the processor supports what the library is compiled for: x86-64-v3, and what the processor it was
//! compiled on supports beyond that (`MARCH` in the Makefile).

/// Raises an error; otherwise the backend would crash with an illegal instruction.
pub fn check() {
    if let Some(missing) = missing_feature() {
        pgrx::ereport!(
            ERROR,
            pgrx::PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!("this processor lacks {missing}, which this library of vekter needs"),
            "The library was compiled for another processor. One that is compiled with MARCH=x86-64-v3 runs on Intel \
             Haswell, AMD Excavator and later."
        );
    }
}

/// Queries the processor itself: `is_x86_feature_detected` is constant for features enabled at compile time.
#[cfg(target_arch = "x86_64")]
fn missing_feature() -> Option<&'static str> {
    use core::arch::x86_64::{__cpuid, __cpuid_count};
    const OSXSAVE_BIT: u32 = 27;
    let basic = __cpuid(1).ecx;
    let leaf_7 = |part| if __cpuid(0).eax >= 7 { Some(__cpuid_count(7, part)) } else { None };
    let (ebx, ecx, edx) = leaf_7(0).map_or((0, 0, 0), |leaf| (leaf.ebx, leaf.ecx, leaf.edx));
    let eax_1 = leaf_7(1).map_or(0, |leaf| leaf.eax);
    let amd = __cpuid(0x8000_0001).ecx;
    /// Whether the library is compiled for a feature.
    macro_rules! used {
        ($feature:literal) => {
            cfg!(target_feature = $feature)
        };
    }
    // x86-64 psABI, table 3.1; OSXSAVE means that the operating system saves the wide registers. Behind these the
    // features of later processors for which compilers make vector instructions of plain loops (Intel SDM, volume 2,
    // CPUID).
    let features = [
        ("FMA", true, basic, 12),
        ("MOVBE", true, basic, 22),
        ("OSXSAVE", true, basic, OSXSAVE_BIT),
        ("AVX", true, basic, 28),
        ("F16C", true, basic, 29),
        ("BMI1", true, ebx, 3),
        ("AVX2", true, ebx, 5),
        ("BMI2", true, ebx, 8),
        ("LZCNT", true, amd, 5),
        ("AVX512F", used!("avx512f"), ebx, 16),
        ("AVX512DQ", used!("avx512dq"), ebx, 17),
        ("AVX512-IFMA", used!("avx512ifma"), ebx, 21),
        ("AVX512CD", used!("avx512cd"), ebx, 28),
        ("AVX512BW", used!("avx512bw"), ebx, 30),
        ("AVX512VL", used!("avx512vl"), ebx, 31),
        ("AVX512-VBMI", used!("avx512vbmi"), ecx, 1),
        ("AVX512-VBMI2", used!("avx512vbmi2"), ecx, 6),
        ("GFNI", used!("gfni"), ecx, 8),
        ("AVX512-VNNI", used!("avx512vnni"), ecx, 11),
        ("AVX512-BITALG", used!("avx512bitalg"), ecx, 12),
        ("AVX512-VPOPCNTDQ", used!("avx512vpopcntdq"), ecx, 14),
        ("AVX512-FP16", used!("avx512fp16"), edx, 23),
        ("AVX-VNNI", used!("avxvnni"), eax_1, 4),
        ("AVX512-BF16", used!("avx512bf16"), eax_1, 5),
    ];
    let is_missing = |&(_, is_used, register, bit): &(_, bool, u32, u32)| is_used && register >> bit & 1 == 0;
    features.into_iter().find(is_missing).map(|(name, ..)| name)
}

#[cfg(not(target_arch = "x86_64"))]
fn missing_feature() -> Option<&'static str> {
    None
}
