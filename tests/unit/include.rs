//! The generated WGSL that reads a layer, next to a caller's own names: every format, placement and width, in one
//! segment and in several.

use naga::valid::Capabilities;

use super::*;
use crate::{CacheConfig, kernels::Shader, wgsl::check};

/// Every layout that generates different WGSL, with a block table where groups are pages.
pub fn layouts() -> Vec<(Layout, Option<TableLayout>)> {
    let mut layouts = Vec::new();
    for keys in Format::ALL {
        for values in [keys, Format::ALL[(Format::ALL.iter().position(|format| *format == keys).unwrap() + 1) % 6]] {
            for placement in [Placement::Linear, Placement::Ring { window: 5, sinks: 2, slack: 1 }] {
                for (dim, value_dim) in [(64, 48), (5, 70), (6, 1)] {
                    let config =
                        CacheConfig::new(2, 3, dim, 9).value_dim(value_dim).formats(keys, values).placement(placement);
                    let whole = Layout::unbounded(&config).unwrap();
                    layouts.push((Layout { planes_per_segment: 4, ..whole.clone() }, None));
                    if placement == Placement::Linear {
                        let table = TableLayout { rows: 3, width: 5, page_size: 8, groups: 1, group: 0 };
                        let config = CacheConfig { max_batch_size: 5, max_seq_len: 8, ..config };
                        let pages = Layout { paged: true, ..Layout::unbounded(&config).unwrap() };
                        layouts.push((Layout { planes_per_segment: 4, ..pages.clone() }, Some(table)));
                        layouts.push((pages, Some(table)));
                    }
                    layouts.push((whole, None));
                }
            }
        }
    }
    layouts
}

/// The generated WGSL with bindings numbered from 0.
pub fn text_of((layout, table): &(Layout, Option<TableLayout>), names: &WgslNames<'_>, unpacks_halves: bool) -> String {
    let of = Addressed { layout, table: *table };
    let indices = names.indices(bindings(of)).unwrap();
    text(of, names, &indices, unpacks_halves)
}

#[test]
fn every_text_reaches_every_backend_beside_a_callers_own() {
    for layout in layouts() {
        for (halves, unpacks) in [(false, true), (false, false), (true, true)] {
            let mut names = WgslNames::new("kv_").group(1);
            if halves {
                names = names.halves();
            }
            let text = text_of(&layout, &names, unpacks);
            for line in text.lines().filter(|line| !line.starts_with("//")) {
                let declared =
                    ["fn ", "const ", "struct ", "var<storage, read> "].iter().find_map(|word| line.strip_prefix(word));
                assert!(declared.is_none_or(|name| name.starts_with("kv_")), "{line}");
                // naga_oil refuses names that naga's writer would change.
                let name = declared.and_then(|rest| rest.split(['(', ':', ' ']).next()).unwrap_or("kv_x");
                assert!(
                    !name.ends_with(|last: char| last.is_ascii_digit() || last == '_') && !name.contains("__"),
                    "{name}"
                );
            }
            let more = if halves { "+ vec4<f32>(kv_key_half(a, b, c, i) + kv_value_half(a, b, c, i))" } else { "" };
            let shader = format!(
                "{} const heads = 7u; const window = 1u; fn slot() {{}} fn plane() {{}} {text}
                @group(0) @binding(0) var<storage, read_write> out: vec4<f32>;
                @compute @workgroup_size(1) fn main(@builtin(global_invocation_id) id: vec3<u32>) {{
                    let a = id.x; let b = id.y % kv_heads; let c = kv_first_visible(kv_length(a) - 1u);
                    for (var i = 0u; i < min(kv_key_vectors, kv_value_vectors); i++) {{
                        out += kv_key(a, b, c, i) * kv_value(a, b, c, i) {more}
                            + kv_key_of(kv_row_of(a, b, c), i) * kv_key_at(kv_plane(a, b), kv_slot(c), i) * f32(kv_sinks + kv_key_dim + kv_value_dim);
                    }}
                }}",
                if halves { "enable f16;" } else { "" }
            );
            let mut capabilities = Capabilities::empty();
            capabilities.set(Capabilities::SHADER_FLOAT16, halves);
            capabilities.set(Capabilities::SHADER_FLOAT16_IN_FLOAT32, unpacks);
            check(&layout, "read", &Shader::new(shader, |_| None), capabilities);
        }
    }
}
