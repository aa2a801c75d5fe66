//! Which variant of the code a processor runs, found out without an operating system.
//!
//! On x86, `cpuid` tells what a processor has and `xgetbv` which vectors the operating system saves. AMX is not looked
//! for: a process has to ask its system for the tiles, and an object knows no system. Other architectures do not tell
//! programs what they have, so an object for them holds one variant, of which nothing is asked.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, types};
use cranelift_module::FuncId;
use ffc_codegen::{Architecture, CodegenError, Target};
use ffc_runtime::artifact::Variant;
use iced_x86::code_asm::{CodeAssembler, CodeLabel, eax, ebx, ecx, edi, edx, esi, r8d, r9d, r10d, r11d, rbx};

use super::routine::{Unit, refuse};
use crate::x86::{encoded, x86};

/// Those of the targets of one architecture, best first, whose code an object can hold and choose.
pub fn object_targets(mut targets: Vec<Target>) -> Vec<Target> {
    if targets.first().is_some_and(|target| target.architecture != Architecture::X86_64) {
        return targets.pop().into_iter().collect();
    }
    for target in &mut targets {
        target.features.retain(|feature| !feature.starts_with("amx"));
    }
    // What remains of a level with AMX is the level below it.
    targets.dedup_by(|below, above| {
        let same = below.features == above.features;
        if same {
            above.name = below.name;
        }
        same
    });
    targets
}

/// 32 bits that tell what there is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    /// `cpuid` leaf 1, ecx.
    Leaf1,
    /// Leaf 7, ebx.
    Leaf7B,
    /// Leaf 7, ecx.
    Leaf7C,
    /// Leaf 7, subleaf 1, eax.
    Leaf7Sub1,
    /// What the operating system saves.
    Saved,
}

const WORDS: [Word; 5] = [Word::Leaf1, Word::Leaf7B, Word::Leaf7C, Word::Leaf7Sub1, Word::Saved];

/// Vectors of 256 bits among what is saved.
const YMM: u32 = 0x06;
/// Vectors of 512 bits and their masks.
const ZMM: u32 = 0xe6;

/// The bits that stand for each feature.
const FEATURES: [(&str, &[(Word, u32)]); 13] = [
    ("sse3", &[(Word::Leaf1, 1 << 0)]),
    ("ssse3", &[(Word::Leaf1, 1 << 9)]),
    ("sse4.1", &[(Word::Leaf1, 1 << 19)]),
    ("sse4.2", &[(Word::Leaf1, 1 << 20)]),
    ("avx", &[(Word::Leaf1, 1 << 28), (Word::Saved, YMM)]),
    ("avx2", &[(Word::Leaf7B, 1 << 5), (Word::Saved, YMM)]),
    ("bmi2", &[(Word::Leaf7B, 1 << 8)]),
    ("avx512f", &[(Word::Leaf7B, 1 << 16), (Word::Saved, ZMM)]),
    ("avx512dq", &[(Word::Leaf7B, 1 << 17)]),
    ("avx512bw", &[(Word::Leaf7B, 1 << 30)]),
    ("avx512vl", &[(Word::Leaf7B, 1 << 31)]),
    ("avx512vnni", &[(Word::Leaf7C, 1 << 11)]),
    ("avxvnni", &[(Word::Leaf7Sub1, 1 << 4), (Word::Saved, YMM)]),
];

/// `level()`: the position of the best variant that the processor runs, counted from 1; 1 more than the last where it
/// runs none. It is found out once and kept, the one thing that an object keeps for itself. `None` where nothing is to
/// be asked.
pub(super) fn level(
    unit: &mut Unit,
    architecture: Architecture,
    variants: &[Variant],
) -> Result<Option<FuncId>, CodegenError> {
    if architecture != Architecture::X86_64 {
        return match variants {
            [_] => Ok(None),
            _ => Err(refuse(format!("an object for {} holds one variant of the code", architecture.name()))),
        };
    }
    let detect = unit.private("detect", &[], &[types::I32])?;
    unit.define_bytes(detect, &x86_code(variants)?)?;
    let known = unit.zeros("known", size_of::<u32>())?;
    let level = unit.private("level", &[], &[types::I32])?;
    unit.define(level, |r, []| {
        let place = r.address(known);
        let kept = r.load(types::I32, place, 0);
        let unknown = r.b.ins().icmp_imm_u(IntCC::Equal, kept, 0);
        r.when(unknown, |r| {
            let found = r.ask(detect, &[]);
            r.store(found, place, 0);
        });
        let level = r.load(types::I32, place, 0);
        r.b.ins().return_(&[level]);
    })?;
    Ok(Some(level))
}

/// What a variant needs of each word.
fn needs(variant: &Variant) -> Result<[u32; WORDS.len()], CodegenError> {
    let mut needs = [0; WORDS.len()];
    for feature in &variant.features {
        let Some((_, bits)) = FEATURES.iter().find(|(name, _)| name == feature) else {
            return Err(refuse(format!("an object cannot find out whether a processor has `{feature}`")));
        };
        for (word, mask) in *bits {
            let place = WORDS.iter().position(|other| other == word).expect("all words are listed");
            needs[place] |= mask;
        }
    }
    Ok(needs)
}

/// x86 code of a function without arguments: the position, counted from 1, of the first variant whose features are all
/// there; where there is none, 1 more than the last.
fn x86_code(variants: &[Variant]) -> Result<Vec<u8>, CodegenError> {
    let mut detector = Detector { code: encoded(CodeAssembler::new(64)) };
    detector.look();
    let mut end = detector.code.create_label();
    for (index, variant) in variants.iter().enumerate() {
        detector.compare(&needs(variant)?, position(index), end);
    }
    x86!(detector; mov(eax, position(variants.len())); set_label(&mut end); pop(rbx); ret());
    Ok(encoded(detector.code.assemble(0)))
}

/// A position counted from 1.
pub(super) fn position(index: usize) -> u32 {
    u32::try_from(index).expect("variants are few") + 1
}

struct Detector {
    code: CodeAssembler,
}

impl Detector {
    /// Puts the words into registers, 0 for what the processor does not tell.
    fn look(&mut self) {
        let [mut unsaved, mut known] = [(); 2].map(|()| self.code.create_label());
        x86!(self;
            push(rbx);
            xor(esi, esi); xor(r9d, r9d); xor(r10d, r10d); xor(r11d, r11d);
            xor(eax, eax); cpuid(); mov(edi, eax);
            mov(eax, 1); cpuid(); mov(r8d, ecx);
            // Whether there is `xgetbv`.
            bt(r8d, 27); jae(unsaved);
            xor(ecx, ecx); xgetbv(); mov(esi, eax);
            set_label(&mut unsaved);
            cmp(edi, 7); jb(known);
            mov(eax, 7); xor(ecx, ecx); cpuid(); mov(r9d, ebx); mov(r10d, ecx);
            test(eax, eax); je(known);
            mov(eax, 7); mov(ecx, 1); cpuid(); mov(r11d, eax);
            set_label(&mut known)
        );
    }

    /// Ends with the variant's position where everything is there that it needs.
    fn compare(&mut self, needs: &[u32; WORDS.len()], position: u32, end: CodeLabel) {
        let mut next = self.code.create_label();
        for (word, &need) in WORDS.iter().zip(needs) {
            let found = match word {
                Word::Leaf1 => r8d,
                Word::Leaf7B => r9d,
                Word::Leaf7C => r10d,
                Word::Leaf7Sub1 => r11d,
                Word::Saved => esi,
            };
            if need != 0 {
                x86!(self; mov(edx, found); and(edx, need.cast_signed()); cmp(edx, need.cast_signed()); jne(next));
            }
        }
        x86!(self; mov(eax, position); jmp(end); set_label(&mut next));
    }
}

#[cfg(test)]
mod tests {
    use ffc_codegen::{NamedTarget, TARGETS};
    use ffc_runtime::cpu::Level;

    use super::*;

    fn names(target: &str) -> Vec<&'static str> {
        let targets = object_targets(NamedTarget::find(target).unwrap().variants());
        targets.iter().map(|target| target.name).collect()
    }

    #[test]
    fn objects_hold_what_they_can_choose() {
        assert_eq!(names("x86_64"), ["avx512vnni", "avxvnni", "avx2", "portable"]);
        assert_eq!(names("x86_64-v4"), ["avx512vnni", "avx2"]);
        assert_eq!(names("aarch64"), ["portable"]);
        assert_eq!(names("aarch64-dotprod"), ["dotprod"]);
        assert_eq!(names("riscv64"), ["portable"]);
    }

    #[test]
    fn a_machine_with_amx_counts_as_one_without() {
        let amx = &ffc_runtime::cpu::AMX;
        let native = Target { name: "native", ..Target::new(Architecture::X86_64, amx) };
        let [without] = &object_targets(vec![native])[..] else { panic!("one remains") };
        assert_eq!(
            (without.name, without.has("avx512vnni"), without.has("amx-int8")),
            ("native", true, false)
        );
    }

    #[test]
    fn every_feature_of_x86_but_amx_can_be_found() {
        let features = Level::all("x86_64").iter().flat_map(|level| level.features());
        for feature in features.filter(|feature| !feature.starts_with("amx")) {
            assert!(FEATURES.iter().any(|(name, _)| *name == feature), "{feature}");
        }
        assert!(TARGETS.iter().all(|target| !object_targets(target.variants()).is_empty()));
    }
}
