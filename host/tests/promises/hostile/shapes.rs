//! Components whose shape is the attack: broken, endless, nested, or costly to compile.

// Over 500 lines: one table of shapes.

use wasm_encoder as we;

use super::make::{Parts, guest};
use super::{Fixture, Group, Seen};
use crate::wasm::with_instances;

const NO_HANDLER: Seen = Seen::Refused("does not export `lovage:task/handler`");

fn with_items(items: &str) -> Vec<u8> {
    guest(Parts { items, ..Parts::default() })
}

/// A component of that text, without a handler.
fn parsed(text: &str) -> Vec<u8> {
    wat::parse_str(format!("(component {text})")).unwrap()
}

/// A component with that core module inside, and no handler: it is compiled all the same.
fn compiled(module: &we::Module) -> Vec<u8> {
    let mut component = we::Component::new();
    component.section(&we::ModuleSection(module));
    component.finish()
}

/// A core module of functions `(i32) -> i32` with these bodies.
fn functions<'a>(bodies: impl IntoIterator<Item = &'a we::Function>) -> we::Module {
    let mut types = we::TypeSection::new();
    types.ty().function([we::ValType::I32], [we::ValType::I32]);
    let mut functions = we::FunctionSection::new();
    let mut code = we::CodeSection::new();
    for body in bodies {
        functions.function(0);
        code.function(body);
    }
    let mut module = we::Module::new();
    module.section(&types).section(&functions).section(&code);
    module
}

fn body(write: impl FnOnce(&mut we::InstructionSink<'_>)) -> we::Function {
    let mut function = we::Function::new([]);
    write(&mut function.instructions());
    function
}

/// The component with that section after it, whose id and size come first.
fn with_section(component: &[u8], id: u8, content: &[u8]) -> Vec<u8> {
    let mut all = component.to_vec();
    all.push(id);
    all.extend(leb(content.len()));
    all.extend(content);
    all
}

fn leb(mut number: usize) -> Vec<u8> {
    let mut digits = Vec::new();
    loop {
        let digit = u8::try_from(number & 0x7f).unwrap();
        number >>= 7;
        if number == 0 {
            digits.push(digit);
            return digits;
        }
        digits.push(digit | 0x80);
    }
}

const PREAMBLE: &[u8] = b"\0asm\x0d\0\x01\0";

/// Components in components, so many levels of them.
fn nested(levels: usize) -> Vec<u8> {
    let mut sizes = vec![PREAMBLE.len()];
    for level in 0..levels {
        let inner = sizes[level];
        sizes.push(PREAMBLE.len() + 1 + leb(inner).len() + inner);
    }
    let mut all = Vec::new();
    for inner in sizes[..levels].iter().rev() {
        all.extend(PREAMBLE);
        all.push(4);
        all.extend(leb(*inner));
    }
    all.extend(PREAMBLE);
    all
}

/// A component that instantiates the one in it twice, which instantiates the one in it twice, …
fn doubling(levels: usize, innermost: &str) -> Vec<u8> {
    let mut text = innermost.to_owned();
    for _ in 0..levels {
        text = format!(
            "(component $c {text}) (instance (instantiate $c)) (instance (instantiate $c))"
        );
    }
    parsed(&text)
}

/// The sections of a component that has an import of each of these names, and a handler.
fn importing(names: impl IntoIterator<Item = String>) -> Vec<u8> {
    let import = |name| format!("(import \"{name}\" (instance (export \"f\" (func)))) ");
    let imports = names.into_iter().map(import).collect::<Vec<_>>().concat();
    parsed(&format!(
        r#"{imports}
           (core module $m (func (export "f")))
           (core instance $i (instantiate $m))
           (func $f (canon lift (core func $i "f")))
           (instance $h (export "describe" (func $f)) (export "run" (func $f)))
           (export "lovage:task/handler@1.0.0" (instance $h))"#
    ))
}

pub fn group() -> Group {
    Group {
        promise: "A component of whatever shape is told what is wrong with it, or compiled in \
                  bounded time and memory",
        fixtures: [broken(), many(), deep(), large(), costly()].into_iter().flatten().collect(),
    }
}

fn broken() -> Vec<Fixture> {
    const INVALID: Seen = Seen::Refused("is no valid component");
    let mut fixtures = vec![
        Fixture::new("names-in-no-utf-8", "exports a name that is no UTF-8", INVALID, || {
            // One export, of component 0, which is there.
            let component = with_section(PREAMBLE, 4, PREAMBLE);
            with_section(&component, 11, b"\x01\x00\x03a\xff\xfe\x04\x00\x00")
        }),
        Fixture::new(
            "names-with-escapes",
            "exports a name with control characters",
            Seen::Refused(r"\u{1b}[31mb\u{202e}"),
            || {
                let component = with_section(PREAMBLE, 4, PREAMBLE);
                with_section(&component, 11, b"\x01\x00\x0aa\x1b[31mb\xe2\x80\xae\x04\x00\x00")
            },
        ),
        Fixture::new("wants-threads", "has a shared memory", INVALID, || {
            with_items("(memory 1 1 shared)")
        }),
        Fixture::new(
            "lies-about-a-section",
            "has a section that is longer than it",
            INVALID,
            || {
                let mut component = guest(Parts::default());
                component.extend(b"\x00\xff\xff\xff\xff\x0f");
                component
            },
        ),
        Fixture::new(
            "lies-about-a-count",
            "says that it has 2³² − 1 types, and has none",
            INVALID,
            || with_section(PREAMBLE, 7, b"\xff\xff\xff\xff\x0f"),
        ),
        Fixture::new(
            "lies-about-a-body",
            "has a core module whose functions have no bodies",
            INVALID,
            || with_section(PREAMBLE, 1, b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0"),
        ),
        Fixture::guest(
            "serves-nothing",
            "exports something else than the handler, as compiled Rust",
            NO_HANDLER,
            ("hostile/no-handler", "t", ""),
        ),
        Fixture::guest(
            "wants-what-is-not-offered",
            "imports what no host offers, as compiled Rust",
            Seen::Refused("imports what this host does not offer: `lovage-test:missing/thing"),
            ("hostile/wants-missing", "t", ""),
        ),
        Fixture::new(
            "wants-files-in-another-shape",
            "imports an interface of WASI with a function that it does not have",
            Seen::Refused("imports an interface in a shape that this host does not offer"),
            || importing(["wasi:filesystem/preopens@0.2.0".to_owned()]),
        ),
        Fixture::new(
            "has-another-handler",
            "exports a handler of other types",
            Seen::Refused("the types of `describe` are not those of the contract"),
            || importing([]),
        ),
    ];
    for (name, at) in
        [("truncated-early", 9), ("truncated-in-the-middle", 2), ("truncated-late", 1)]
    {
        fixtures.push(Fixture::new(name, "is cut off", Seen::Refused("is no"), move || {
            let mut component = guest(Parts::default());
            // 9 is just after the preamble, 2 half-way, 1 one byte before the end.
            component.truncate(match at {
                9 => 9,
                2 => component.len() / 2,
                _ => component.len() - 1,
            });
            component
        }));
    }
    fixtures
}

fn many() -> Vec<Fixture> {
    vec![
        Fixture::new(
            "imports-a-thousand",
            "imports a thousand interfaces, of which hosts offer none",
            Seen::Refused("more"),
            || importing((0..990).map(|n| format!("none:such/interface{n}@1.0.0"))),
        ),
        Fixture::new(
            "imports-at-length",
            "imports a hundred interfaces with names of 30,000 bytes",
            Seen::Refused("more"),
            || importing((0..100).map(|n| format!("none:such/i{n}{}@1.0.0", "x".repeat(30_000)))),
        ),
        Fixture::new(
            "exports-many",
            "exports nine hundred names of a thousand bytes",
            Seen::Refused("more"),
            || {
                let mut instances = we::ComponentInstanceSection::new();
                instances.export_items::<&str, [(&str, we::ComponentExportKind, u32); 0]>([]);
                let mut exports = we::ComponentExportSection::new();
                for n in 0..900 {
                    let name = format!("e{n}{}", "x".repeat(1000));
                    exports.export(name.as_str(), we::ComponentExportKind::Instance, 0, None);
                }
                let mut component = we::Component::new();
                component.section(&instances).section(&exports);
                component.finish()
            },
        ),
        Fixture::new("has-a-million-types", "has a million and one types", TOO_MANY, || {
            types(1_000_001)
        }),
        Fixture::new("has-many-types", "has half a million types", NO_HANDLER, || types(500_000)),
        Fixture::new(
            "has-many-instances",
            "is made of a hundred thousand core instances",
            Seen::Refused("instances"),
            || with_instances(&guest(Parts::default()), 100_000),
        ),
        Fixture::new(
            "has-many-globals",
            "has 270,000 global variables",
            Seen::Refused("needs more than a sandbox has room for"),
            || {
                let mut globals = we::GlobalSection::new();
                let kind =
                    we::GlobalType { val_type: we::ValType::V128, mutable: true, shared: false };
                for _ in 0..270_000 {
                    globals.global(kind, &we::ConstExpr::v128_const(0));
                }
                let mut module = we::Module::new();
                module.section(&globals);
                compiled(&module)
            },
        ),
        Fixture::new("has-many-functions", "has two thousand functions", NO_HANDLER, || {
            let body = body(|it| {
                it.local_get(0).end();
            });
            compiled(&functions(std::iter::repeat_n(&body, 2_000)))
        }),
        Fixture::new("has-many-segments", "has ninety thousand data segments", NO_HANDLER, || {
            let mut data = we::DataSection::new();
            for _ in 0..90_000 {
                data.passive([1]);
            }
            let mut module = we::Module::new();
            module.section(&data);
            compiled(&module)
        }),
    ]
}

const TOO_MANY: Seen = Seen::Refused("count exceeds limit");

fn types(count: usize) -> Vec<u8> {
    // Each an alias of `bool`.
    let mut content = leb(count);
    content.extend(std::iter::repeat_n(0x7f, count));
    with_section(PREAMBLE, 7, &content)
}

fn deep() -> Vec<Fixture> {
    const DEEP: Seen = Seen::Refused("is no valid component");
    const COSTLY: Seen = Seen::Refused("could take time and memory without bound");
    vec![
        Fixture::new(
            "nests-components",
            "has components in components, 100,000 levels",
            COSTLY,
            || nested(100_000),
        ),
        Fixture::new(
            "nests-some-components",
            "has components in components, 50 levels",
            NO_HANDLER,
            || nested(50),
        ),
        Fixture::new(
            "nests-component-types",
            "has types of components in types of components, 200,000 levels",
            COSTLY,
            || {
                let mut content = leb(1);
                content.extend([0x41, 0x01, 0x01].repeat(200_000));
                content.extend([0x41, 0x00]);
                with_section(PREAMBLE, 7, &content)
            },
        ),
        Fixture::new("nests-lists", "has lists of lists, 100,000 levels", DEEP, || {
            let mut content = leb(100_001);
            content.push(0x7f);
            for inner in 0..100_000 {
                content.push(0x70);
                content.extend(leb(inner));
            }
            with_section(PREAMBLE, 7, &content)
        }),
        Fixture::new(
            "doubles-its-types",
            "has pairs of pairs, 60 levels: 2⁶⁰ values in a few bytes",
            DEEP,
            || {
                let mut content = leb(61);
                content.push(0x7f);
                for inner in 0..60 {
                    content.extend([0x6f, 2, inner, inner]);
                }
                with_section(PREAMBLE, 7, &content)
            },
        ),
        Fixture::new(
            "doubles-its-instances",
            "instantiates a component twice, which does so with another one, 24 levels",
            COSTLY,
            || doubling(24, "(core module $m) (core instance (instantiate $m))"),
        ),
        Fixture::new(
            "doubles-nothing",
            "instantiates a component twice, which does so with another one, 24 levels, and the \
             last is empty",
            COSTLY,
            || doubling(24, ""),
        ),
        Fixture::new(
            "nests-blocks",
            "has a function of 200,000 blocks in each other",
            COSTLY,
            || blocks(200_000),
        ),
        Fixture::new(
            "nests-some-blocks",
            "has a function of 5,000 blocks in each other",
            NO_HANDLER,
            || blocks(5_000),
        ),
    ]
}

/// A function of so many blocks in each other.
fn blocks(levels: usize) -> Vec<u8> {
    let body = body(|it| {
        for _ in 0..levels {
            it.block(we::BlockType::Empty);
        }
        for _ in 0..levels {
            it.end();
        }
        it.local_get(0).end();
    });
    compiled(&functions([&body]))
}

fn large() -> Vec<Fixture> {
    vec![
        Fixture::new(
            "has-100-megabytes",
            "has a section of 100 MB that means nothing",
            Seen::Refused("and a component may have 64 MiB (`components.max_bytes` raises it)"),
            || ballast(100_000_000),
        ),
        Fixture::new(
            "has-40-megabytes",
            "has a section of 40 MB that means nothing",
            Seen::Done,
            || ballast(40_000_000),
        ),
        Fixture::new(
            "has-much-data",
            "fills 10 MB of its memory from a data segment",
            Seen::Done,
            || {
                guest(Parts {
                    memory: r#"(memory (export "memory") 500)"#,
                    items: &format!(r#"(data (i32.const 65536) "{}")"#, "x".repeat(10_000_000)),
                    ..Parts::default()
                })
            },
        ),
        Fixture::new(
            "has-data-beyond-its-memory",
            "has a data segment that ends beyond its memory",
            Seen::Refused("`trap:memory_out_of_bounds`"),
            || with_items(r#"(data (i32.const 65530) "0123456789")"#),
        ),
        Fixture::new(
            "has-elements-beyond-its-table",
            "has an element segment that ends beyond its table",
            Seen::Refused("`trap:table_out_of_bounds`"),
            || with_items("(table 1 funcref) (func $f) (elem (i32.const 0) $f $f)"),
        ),
    ]
}

fn ballast(bytes: usize) -> Vec<u8> {
    let mut content = vec![0x01, b'x'];
    content.resize(bytes, 0);
    with_section(&guest(Parts::default()), 0, &content)
}

fn costly() -> Vec<Fixture> {
    vec![
        Fixture::new(
            "branches-widely",
            "has a branch to sixty thousand targets",
            NO_HANDLER,
            || {
                let body = body(|it| {
                    for _ in 0..100 {
                        it.block(we::BlockType::Empty);
                    }
                    let targets: Vec<u32> = (0..60_000).map(|n| n % 100).collect();
                    it.local_get(0).br_table(targets, 0);
                    for _ in 0..100 {
                        it.end();
                    }
                    it.local_get(0).end();
                });
                compiled(&functions([&body]))
            },
        ),
        Fixture::new(
            "computes-at-length",
            "has a function of five thousand additions",
            NO_HANDLER,
            || {
                let body = body(|it| {
                    for n in 0..5_000 {
                        it.local_get(0).i32_const(n).i32_add().local_set(0);
                    }
                    it.local_get(0).end();
                });
                compiled(&functions([&body]))
            },
        ),
        Fixture::new(
            "computes-with-all-at-once",
            "has a function with two thousand values on its stack",
            NO_HANDLER,
            || {
                let body = body(|it| {
                    for n in 0..2_000 {
                        it.local_get(0).i32_const(n).i32_mul();
                    }
                    for _ in 1..2_000 {
                        it.i32_add();
                    }
                    it.end();
                });
                compiled(&functions([&body]))
            },
        ),
        Fixture::new(
            "loops-in-loops",
            "has a function of five hundred loops in each other, with fifty variables",
            NO_HANDLER,
            || {
                let mut function = we::Function::new([(50, we::ValType::I32)]);
                let mut it = function.instructions();
                for n in 0..500 {
                    it.loop_(we::BlockType::Empty);
                    it.local_get(n % 50).i32_const(1).i32_add().local_set((n + 1) % 50);
                }
                for n in 0..500 {
                    it.local_get(n % 50).br_if(0).end();
                }
                it.local_get(0).end();
                compiled(&functions([&function]))
            },
        ),
        Fixture::new(
            "has-too-many-variables",
            "has a function of four billion local variables",
            Seen::Refused("too many locals"),
            || {
                let mut function = we::Function::new([(u32::MAX, we::ValType::I64)]);
                function.instructions().local_get(0).end();
                compiled(&functions([&function]))
            },
        ),
        Fixture::new(
            "has-a-huge-frame",
            "calls a function with fifty thousand variables that are all in use",
            Seen::Refused("`trap:stack_overflow`"),
            || {
                let locals = "i64 ".repeat(49_000);
                with_items(&format!(
                    "(func $f (export \"f\") (local {locals}) (call $f)) (start $f)"
                ))
            },
        ),
    ]
}
