//! The image of sandbox containers, made here: no registry is needed and nothing is embedded. Called by
//! [`super::DockerRuntime`] when a sandbox is first wanted on an engine.
//!
//! A sandbox only holds a network namespace, so its program does nothing: it waits for signals for ever. It is
//! a static ELF of under 300 bytes, put together from its parts below. The engine's init is PID 1 and passes
//! TERM on; the program has no handler, so TERM ends it.
//!
//! Invariant: the bytes are a pure function of the architecture. Another content needs another tag.

use crate::runtime::RuntimeError;

/// Image of every sandbox container.
pub const SANDBOX_IMAGE: &str = "wharfinger/pause:1";
pub(super) const REPOSITORY: &str = "wharfinger/pause";
pub(super) const TAG: &str = "1";

/// Where the file is mapped; any address above `vm.mmap_min_addr` that leaves room will do.
const BASE: u64 = 0x40_0000;
const EHDR_LEN: u64 = 64;
const PHDR_LEN: u64 = 56;
/// Code follows the ELF header and two program headers.
const CODE_AT: u64 = EHDR_LEN + 2 * PHDR_LEN;

/// x86-64: `pause()` again and again.
const CODE_X86_64: [u8; 9] = [
    0xb8, 0x22, 0x00, 0x00, 0x00, // mov eax, 34    system call 34 is pause: waits for a signal
    0x0f, 0x05, //                   syscall        returns EINTR after a handled signal
    0xeb, 0xf7, //                   jmp -9         back to the mov
];

/// AArch64 has no `pause`: `ppoll(NULL, 0, NULL, NULL)` waits for a signal too. Instructions are little-endian.
const CODE_AARCH64: [u8; 28] = [
    0x00, 0x00, 0x80, 0xd2, // mov x0, #0     no descriptors …
    0x01, 0x00, 0x80, 0xd2, // mov x1, #0     … none of them …
    0x02, 0x00, 0x80, 0xd2, // mov x2, #0     … without a time limit …
    0x03, 0x00, 0x80, 0xd2, // mov x3, #0     … and with the signal mask as it is
    0x28, 0x09, 0x80, 0xd2, // mov x8, #73    system call 73 is ppoll
    0x01, 0x00, 0x00, 0xd4, // svc #0
    0xfa, 0xff, 0xff, 0x17, // b -24          back to the first mov: x0 holds the result now
];

/// The program for an engine's architecture, as `docker info` names it.
pub(super) fn program(architecture: &str) -> Result<Vec<u8>, RuntimeError> {
    match architecture {
        "x86_64" | "amd64" => Ok(elf(62, &CODE_X86_64)),
        "aarch64" | "arm64" => Ok(elf(183, &CODE_AARCH64)),
        other => Err(RuntimeError::Refused(format!(
            "no sandbox program for the engine's architecture `{other}`: pods of several containers run on x86_64 and aarch64"
        ))),
    }
}

/// A 64-bit little-endian executable for `machine` (e_machine of the ELF specification) that runs `code`.
fn elf(machine: u16, code: &[u8]) -> Vec<u8> {
    let size = CODE_AT + code.len() as u64;
    let mut out = Vec::with_capacity(512);
    // ELF header.
    out.extend(b"\x7fELF");
    out.extend([2, 1, 1, 0]); // 64-bit, little-endian, version 1, System V
    out.extend([0; 8]); // padding
    out.extend(2_u16.to_le_bytes()); // e_type: executable at a fixed address
    out.extend(machine.to_le_bytes());
    out.extend(1_u32.to_le_bytes()); // e_version
    out.extend((BASE + CODE_AT).to_le_bytes()); // e_entry
    out.extend(EHDR_LEN.to_le_bytes()); // e_phoff: program headers follow
    out.extend(0_u64.to_le_bytes()); // e_shoff: no sections
    out.extend(0_u32.to_le_bytes()); // e_flags
    out.extend(64_u16.to_le_bytes()); // e_ehsize
    out.extend(56_u16.to_le_bytes()); // e_phentsize
    out.extend(2_u16.to_le_bytes()); // e_phnum
    out.extend([0; 6]); // e_shentsize, e_shnum, e_shstrndx
    // The whole file, readable and executable. 64 KiB is the largest page that AArch64 kernels use.
    segment(&mut out, 1, 4 | 1, BASE, size, 0x1_0000);
    // PT_GNU_STACK without the executable bit: a stack that cannot be run.
    segment(&mut out, 0x6474_e551, 4 | 2, 0, 0, 16);
    out.extend(code);
    out
}

/// One program header: type, flags (4 read, 2 write, 1 execute), address, size, alignment; file offset 0.
fn segment(out: &mut Vec<u8>, kind: u32, flags: u32, address: u64, size: u64, align: u64) {
    out.extend(kind.to_le_bytes());
    out.extend(flags.to_le_bytes());
    for word in [0, address, address, size, size, align] {
        out.extend(word.to_le_bytes());
    }
}

/// A tar archive (POSIX ustar) with one executable file owned by root.
pub(super) fn tar(name: &str, content: &[u8]) -> Vec<u8> {
    const BLOCK: usize = 512;
    /// Offset and text of each header field that is not zero; numbers are octal text.
    fn put(header: &mut [u8; BLOCK], at: usize, text: &str) {
        for (slot, byte) in header.iter_mut().skip(at).zip(text.bytes()) {
            *slot = byte;
        }
    }
    let mut header = [0_u8; BLOCK];
    put(&mut header, 0, name);
    put(&mut header, 100, "0000755"); // mode
    put(&mut header, 108, "0000000"); // owner
    put(&mut header, 116, "0000000"); // group
    put(&mut header, 124, &format!("{:011o}", content.len()));
    put(&mut header, 136, "00000000000"); // time: the epoch, so that equal content is equal bytes
    put(&mut header, 148, "        "); // the checksum counts as blanks while it is summed
    put(&mut header, 156, "0"); // regular file
    put(&mut header, 257, "ustar\x0000");
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    put(&mut header, 148, &format!("{sum:06o}\0 "));

    let mut out = header.to_vec();
    out.extend(content);
    out.resize(out.len().next_multiple_of(BLOCK), 0);
    // Two empty blocks end an archive.
    out.resize(out.len() + 2 * BLOCK, 0);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    #[test]
    fn entry_points_at_the_code_and_the_segment_covers_the_file() {
        for (arch, machine, code) in [
            ("x86_64", 62, CODE_X86_64.as_slice()),
            ("aarch64", 183, CODE_AARCH64.as_slice()),
        ] {
            let elf = program(arch).unwrap();
            assert_eq!(elf[18], machine, "{arch}");
            assert_eq!(word(&elf, 24) - BASE, CODE_AT);
            assert_eq!(&elf[usize::try_from(CODE_AT).unwrap()..], code);
            // p_filesz and p_memsz of the first program header.
            assert_eq!(word(&elf, 64 + 32), elf.len() as u64);
            assert_eq!(word(&elf, 64 + 40), elf.len() as u64);
        }
    }

    #[test]
    fn aarch64_branch_goes_back_to_the_first_instruction() {
        let last = u32::from_le_bytes(CODE_AARCH64[24..].try_into().unwrap());
        assert_eq!(last >> 26, 0b000101, "an unconditional branch");
        // A signed 26-bit count of instructions, relative to the branch itself.
        let offset = (last << 6).cast_signed() >> 6;
        assert_eq!(offset, -6);
    }

    #[test]
    fn unknown_architecture_is_refused_by_name() {
        assert!(program("riscv64").unwrap_err().to_string().contains("`riscv64`"));
    }

    #[test]
    fn tar_has_a_right_checksum_and_whole_blocks() {
        let tar = tar("pause", b"abc");
        assert_eq!(tar.len(), 512 + 512 + 1024);
        let stored = std::str::from_utf8(&tar[148..154]).unwrap();
        let mut header = tar[..512].to_vec();
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
        assert_eq!(u32::from_str_radix(stored, 8), Ok(sum));
        assert_eq!(&tar[512..515], b"abc");
    }
}
