//! Just enough of WebAssembly's binary format to look into a component and to add to one.

/// The preamble of a component, and that of an empty core module
/// (<https://github.com/WebAssembly/component-model/blob/main/design/mvp/Binary.md>).
const PREAMBLE: usize = 8;
const EMPTY_MODULE: &[u8] = b"\0asm\x01\0\0\0";

/// Sections of a component.
const CORE_MODULE: u8 = 1;
const CORE_INSTANCE: u8 = 2;
/// The section of a core module that says how large its memories are.
const MEMORY: u8 = 5;

/// The sections of a module or a component: each one's id and content.
fn sections(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut found = Vec::new();
    bytes = &bytes[PREAMBLE..];
    while let Some((&id, rest)) = bytes.split_first() {
        let (size, rest) = number(rest);
        let (content, rest) = rest.split_at(usize::try_from(size).unwrap());
        found.push((id, content));
        bytes = rest;
    }
    found
}

/// An unsigned number in LEB128, and what comes after it.
fn number(bytes: &[u8]) -> (u64, &[u8]) {
    let length = bytes.iter().position(|byte| byte & 0x80 == 0).unwrap() + 1;
    let (digits, rest) = bytes.split_at(length);
    (digits.iter().rev().fold(0, |sum, digit| (sum << 7) | u64::from(digit & 0x7f)), rest)
}

/// A number below 2²¹ in LEB128.
fn leb(number: usize) -> [u8; 3] {
    let digit = |shift: u32| u8::try_from((number >> shift) & 0x7f).unwrap();
    [digit(0) | 0x80, digit(7) | 0x80, digit(14)]
}

/// How many pages of 64 KiB the memories of a component have when it begins.
pub fn initial_pages(component: &[u8]) -> u64 {
    let modules = sections(component).into_iter().filter(|(id, _)| *id == CORE_MODULE);
    let memories = modules.flat_map(|(_, module)| sections(module));
    let pages = memories.filter(|(id, _)| *id == MEMORY).map(|(_, content)| {
        let (count, limits) = number(content);
        assert_eq!(count, 1, "one memory a module");
        // Flags first; the pages at most, where there are any, come after these.
        number(&limits[1..]).0
    });
    pages.sum()
}

/// The component with so many instances of an empty module beside those that it has.
pub fn with_instances(component: &[u8], count: usize) -> Vec<u8> {
    let modules = sections(component).iter().filter(|(id, _)| *id == CORE_MODULE).count();
    let index = u8::try_from(modules).unwrap();
    assert!(index < 0x80);
    let mut instances = leb(count).to_vec();
    for _ in 0..count {
        // Instantiate that module with no arguments.
        instances.extend([0, index, 0]);
    }
    let mut grown = component.to_vec();
    for (id, content) in [(CORE_MODULE, EMPTY_MODULE), (CORE_INSTANCE, &instances)] {
        grown.push(id);
        grown.extend(leb(content.len()));
        grown.extend(content);
    }
    grown
}

/// Sections of a core module.
const IMPORTS: u8 = 2;
const EXPORTS: u8 = 7;
const CODE: u8 = 10;

/// The component with another one in place of its first core module; `None` where there is none.
pub fn with_first_module(
    component: &[u8],
    change: impl FnOnce(&[u8]) -> Option<Vec<u8>>,
) -> Option<Vec<u8>> {
    let mut sections: Vec<(u8, Vec<u8>)> =
        sections(component).into_iter().map(|(id, content)| (id, content.to_vec())).collect();
    let (_, module) = sections.iter_mut().find(|(id, _)| *id == CORE_MODULE)?;
    *module = change(module)?;
    Some(joined(&component[..PREAMBLE], &sections))
}

/// The core module, which imports nothing, with another body for an exported function.
pub fn with_body(module: &[u8], export: &str, body: &[u8]) -> Option<Vec<u8>> {
    let mut sections: Vec<(u8, Vec<u8>)> =
        sections(module).into_iter().map(|(id, content)| (id, content.to_vec())).collect();
    // Functions that are imported would count, too.
    assert!(sections.iter().all(|(id, content)| *id != IMPORTS || number(content).0 == 0));
    let (_, exports) = sections.iter().find(|(id, _)| *id == EXPORTS)?;
    let (count, mut rest) = number(exports);
    let mut function = None;
    for _ in 0..count {
        let (length, after) = number(rest);
        let (name, after) = after.split_at(usize::try_from(length).unwrap());
        let (index, after) = number(&after[1..]);
        if name == export.as_bytes() {
            function = Some(index);
        }
        rest = after;
    }
    let function = function?;
    let (_, code) = sections.iter_mut().find(|(id, _)| *id == CODE)?;
    let (count, mut rest) = number(code);
    let mut bodies = leb(usize::try_from(count).unwrap()).to_vec();
    for index in 0..count {
        let (length, after) = number(rest);
        let (own, after) = after.split_at(usize::try_from(length).unwrap());
        let chosen = if index == function { body } else { own };
        bodies.extend(leb(chosen.len()));
        bodies.extend(chosen);
        rest = after;
    }
    *code = bodies;
    Some(joined(&module[..PREAMBLE], &sections))
}

fn joined(preamble: &[u8], sections: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut all = preamble.to_vec();
    for (id, content) in sections {
        all.push(*id);
        all.extend(leb(content.len()));
        all.extend(content);
    }
    all
}
