//! What kombu compresses message bodies and stored results with. Output and memory are bounded: a
//! small message may expand to gigabytes.

use std::io::Read;

use brotli_decompressor::Decompressor;
use lzma_rust2::{LzmaReader, XzReader};
use ruzstd::decoding::StreamingDecoder;

/// The methods that are read, by the names that kombu gives them.
pub(super) const METHODS: &str = "gzip (zlib), bzip2, lzma (xz), zstd and brotli";

/// Memory for the dictionary of an LZMA stream. Python's default preset takes 9 MiB.
const LZMA_KIB: u32 = 32 << 10;
/// The window of a zstd frame that every decoder takes (RFC 8878, section 3.1.1.1.2).
const ZSTD_WINDOW: usize = 8 << 20;
/// kombu writes one frame. Each one costs a decoder of its own.
const ZSTD_FRAMES: usize = 16;

/// Why nothing could be decompressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// kombu has no method of that name, or it is not read here.
    Unknown,
    /// The bytes are not what the method writes.
    Broken,
    /// The output is over the bound.
    TooLarge,
}

/// Decompresses bytes. `max` bounds the output.
pub(super) fn decompress(method: &str, bytes: &[u8], max: usize) -> Result<Vec<u8>, Fault> {
    match method.trim().to_ascii_lowercase().as_str() {
        "application/x-gzip" | "gzip" | "zlib" => drain(flate2::read::ZlibDecoder::new(bytes), max),
        "application/x-bz2" | "bzip2" | "bzip" => drain(bzip2::read::BzDecoder::new(bytes), max),
        "application/x-lzma" | "lzma" | "xz" => lzma(bytes, max),
        "application/zstd" | "zstd" | "zstandard" => zstd(bytes, max),
        "application/x-brotli" | "brotli" => brotli(bytes, max),
        _ => Err(Fault::Unknown),
    }
}

/// Reads to the end, and stops as soon as the output is over the bound.
fn drain(reader: impl Read, max: usize) -> Result<Vec<u8>, Fault> {
    let mut output = Vec::new();
    let most = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    reader.take(most).read_to_end(&mut output).map_err(|_| Fault::Broken)?;
    if output.len() > max { Err(Fault::TooLarge) } else { Ok(output) }
}

/// Python writes the `xz` container, and reads the older `.lzma`, too.
fn lzma(bytes: &[u8], max: usize) -> Result<Vec<u8>, Fault> {
    if bytes.starts_with(b"\xfd7zXZ\0") {
        return drain(XzReader::new_mem_limit(bytes, false, LZMA_KIB), max);
    }
    let reader = LzmaReader::new_mem_limit(bytes, LZMA_KIB, None).map_err(|_| Fault::Broken)?;
    drain(reader, max)
}

fn zstd(mut bytes: &[u8], max: usize) -> Result<Vec<u8>, Fault> {
    let window = u64::try_from(max.max(ZSTD_WINDOW)).unwrap_or(u64::MAX);
    let mut output = Vec::new();
    for _ in 0..ZSTD_FRAMES {
        let mut decoder =
            StreamingDecoder::new_with_max_window_size(bytes, window).map_err(|_| Fault::Broken)?;
        output.append(&mut drain(&mut decoder, max.saturating_sub(output.len()))?);
        bytes = decoder.into_inner();
        if bytes.is_empty() {
            return Ok(output);
        }
    }
    Err(Fault::Broken)
}

/// The window of RFC 7932 has at most 16 MiB. A header that asks for a larger one, which is an
/// extension that Python does not read either, is refused.
fn brotli(bytes: &[u8], max: usize) -> Result<Vec<u8>, Fault> {
    if bytes.first().is_some_and(|first| first & 0x7f == 0x11) {
        return Err(Fault::Broken);
    }
    drain(Decompressor::new(bytes, 4096), max)
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, prelude::BASE64_STANDARD};

    use super::*;

    /// What kombu writes for `b"[[21], {}, {}]" * 20`, by Python 3.11 and the packages that kombu uses.
    const WRITTEN: &[(&str, &str)] = &[
        ("application/x-gzip", "eJyLjjYyjNVRqK4F4djoUR6UBwCqmVcd"),
        (
            "application/x-bz2",
            "QlpoOTFBWSZTWUSWBQAAAE+agEAEMAAACgAKIABQhgQFKoxo+E4TpOEwTRMJsmCdE8LuSKcKEgiSwKAA",
        ),
        ("application/x-brotli", "GxcB+I3THbPILNmljtnq6tMgLDJ7SofF4gE1kk8M"),
        (
            "application/x-lzma",
            "/Td6WFoAAATm1rRGAgAhARYAAAB0L+Wj4AEXABJdAC3gxGJhHZVahfEZl25f/vjAAAAAAGvy6bdzTkMIAAEumAIAAADBFIy1scRn+wIAAAAABFla",
        ),
        ("application/zstd", "KLUv/WAYAJ0AAFBbWzIxXSwge31dAgAHMVW8uiM="),
        ("lzma", "XQAAgAD//////////wAt4MRiYR2VWoXxGZduYAMG/p///gkQAA=="),
    ];

    fn of(text: &str) -> Vec<u8> {
        BASE64_STANDARD.decode(text).unwrap()
    }

    #[test]
    fn what_kombu_compresses_is_read() {
        let whole = b"[[21], {}, {}]".repeat(20);
        for (method, text) in WRITTEN {
            assert_eq!(decompress(method, &of(text), 1000).as_deref(), Ok(&whole[..]), "{method}");
        }
    }

    #[test]
    fn output_is_bounded_and_damage_is_an_error_whatever_the_method() {
        for (method, text) in WRITTEN {
            let bytes = of(text);
            assert_eq!(decompress(method, &bytes, 279), Err(Fault::TooLarge), "{method}");
            for cut in 0..bytes.len() {
                // Never a panic; some methods give what came before the cut.
                let _ = decompress(method, &bytes[..cut], 1000);
            }
            for at in 0..bytes.len() {
                let mut broken = bytes.clone();
                broken[at] ^= 0xff;
                let _ = decompress(method, &broken, 1000);
            }
            assert_eq!(decompress(method, b"no such thing", 1000), Err(Fault::Broken), "{method}");
        }
        assert_eq!(decompress("application/x-snappy", b"", 1), Err(Fault::Unknown));
        // A window of 1 GiB.
        assert_eq!(decompress("brotli", &[0x11, 0x1e, 0, 0], 1000), Err(Fault::Broken));
    }
}
