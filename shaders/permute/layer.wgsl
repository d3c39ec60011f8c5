// layer: permutes one layer. The host generates the bindings, and `permute_unit`, which calls each layer.
//
// Shapes:  lengths                    see step/lengths. Starts become the lengths: no row counts as just written
//          key_planes, value_planes   [sequence, head, slot, dim], the only segment of the layer
// Bounds:  the kernel drops the sequences past the batch; units/ drops the units past the end of a plane.

#import units/{wide,narrow}.wgsl as side_key, side_value

@group(0) @binding(SIDE_LENGTHS_BINDING) var<storage, read_write> side_lengths: array<u32>;

fn side_permute(head: u32, unit: u32) {
    side_key_permute(head, unit);
    side_value_permute(head, unit);
    if head == 0u && unit < selection.sequences {
        let length = length_of(SIDE_INDEX, unit);
        side_lengths[unit] = length;
        side_lengths[selection.starts + unit] = length;
    }
}
