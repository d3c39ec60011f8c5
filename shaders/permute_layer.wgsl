// permute_layer: one layer of permute. Joined once for each, with its number for LAYER.
//
// Shapes:  lengths                    [sequence], then [sequence] of starts: no row was just written
//          key_planes, value_planes   [sequence, head, slot, dim], the only segment of the layer

@group(0) @binding(LENGTHS_BINDING) var<storage, read_write> lengths_LAYER: array<u32>;

fn permute_layer_LAYER(head: u32, unit: u32) {
    key_LAYER_permute(head, unit);
    value_LAYER_permute(head, unit);
    if head == 0u && unit < selection.sequences {
        let length = length_of(LAYERu, unit);
        lengths_LAYER[unit] = length;
        lengths_LAYER[selection.starts + unit] = length;
    }
}
