// relation_matrix on the tensor cores of sm_90a (relation_matrix_wgmma.cu). It has never run on a GPU, only
// on the emulated one of the tests, and is off unless RELKERNELS_CUDA_WGMMA=1 is set in the environment.
#pragma once

#include "factors.cuh"

namespace rk::cuda {

// R = scale F G^T for the items of a batch; pitches and item strides in elements.
struct RelationWgmma {
    const void *f, *g;
    long f_pitch, g_pitch, f_item, g_item;  // an item stride of 0: one matrix for all items
    long rows, columns, depth, items;
    bool symmetric;  // g is f: one half is computed and mirrored to the other
    float scale;
    void* out;
    long out_pitch, out_item;
};

// Whether RELKERNELS_CUDA_WGMMA is 1 and the device supports wgmma (compute capability 9.0). Throws
// std::invalid_argument if the variable is set to anything but 0 or 1.
bool wgmma_asked_for(int device);

// Launches the kernel and returns true. Returns false, without any effect, if the kernel does not support
// these shapes or addresses or the driver does not support tensor maps. Half: bfloat16 or float16. Out: Half
// or float.
template <class Half, class Out>
bool relation_matrix_wgmma(const RelationWgmma& r, int multiprocessors, Stream stream);

// The same for the pairs of a walk, with one launch for each index of the leading dimensions but the last.
// Returns false if the walk has to compute them.
template <class F>
bool relation_matrix_wgmma(const Context& context, const Pairs<F>& p, const Strided& out, double scale,
                           bool symmetric) {
    if (!wgmma_asked_for(context.device) || out.column != 1) return false;
    if (out.dtype != DtypeOf<F>::value && out.dtype != Dtype::float32) return false;
    const Rows<F>&f = p.rows[0], &g = p.columns[0];
    const int last = p.lead.dims - 1;
    const long items = p.lead.dims > 0 ? p.lead.size[last] : 1;
    const auto item = [&](const LeadStride& lead) { return items > 1 ? lead.step[last] : 0; };
    for (long first = 0; first < p.lead.items(); first += items) {
        const long to = out.lead.offset(p.lead, first);
        const RelationWgmma r{f.data + f.lead.offset(p.lead, first),
                              g.data + g.lead.offset(p.lead, first),
                              f.count > 1 ? f.pitch : f.width,
                              g.count > 1 ? g.pitch : g.width,
                              item(f.lead),
                              item(g.lead),
                              f.count,
                              g.count,
                              f.width,
                              items,
                              symmetric,
                              float(scale),
                              static_cast<char*>(out.data) + to * size_of(out.dtype),
                              out.row,
                              item(out.lead)};
        const bool done = out.dtype == Dtype::float32
                              ? relation_matrix_wgmma<F, float>(r, context.multiprocessors, context.stream)
                              : relation_matrix_wgmma<F, F>(r, context.multiprocessors, context.stream);
        if (!done) return false;
        check_launch("relation_matrix");
    }
    return true;
}

}  // namespace rk::cuda
