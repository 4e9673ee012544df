#include "member_sums.cuh"

#include "factors.cuh"

namespace rk::cuda {

namespace {

constexpr int kSumThreads = 128;

template <class Sum>
struct MemberSums {
    Lead groups, members;
    LeadStride part_of_group, part_of_member;  // the parts of a group and of a member in it
    long rows, width;
    const Sum* parts;
    Strided sum;
};

// A thread for each element of a group.
template <class Sum>
RK_KERNEL(kSumThreads)
add_members(const __grid_constant__ MemberSums<Sum> q) {
    const long index = long(block_index()) * kSumThreads + thread_index();
    const long size = q.rows * q.width, element = index % size;
    if (index >= q.groups.items() * size) return;
    const unsigned group = unsigned(index / size), members = unsigned(q.members.items());
    const Sum* part = q.parts + q.part_of_group.offset(q.groups, group) + element;
    Sum sum = *part;
    for (unsigned member = 1; member < members; ++member)
        sum += part[q.part_of_member.offset(q.members, member)];
    Sum* to = static_cast<Sum*>(q.sum.data) + q.sum.lead.offset(q.groups, group);
    to[element / q.width * q.sum.row + element % q.width * q.sum.column] = sum;
}

bool is_shared(const Array& sum, int dimension) {
    const auto i = std::size_t(dimension);
    return sum.shape[i] > 1 && sum.stride[i] == 0;
}

}  // namespace

template <class Sum>
Array parts_of(const Context& context, const Array& sum) {
    const int lead = sum.ndim() - 2;
    bool shared = false;
    for (int i = 0; i < lead; ++i) shared = shared || is_shared(sum, i);
    if (!shared) return sum;
    Array parts = sum;
    long step = 1;
    for (std::size_t i = parts.shape.size(); i-- > 0; step *= parts.shape[i]) parts.stride[i] = step;
    parts.data = reinterpret_cast<char*>(context.take<Sum>(step));
    return parts;
}

template <class Sum>
void add_parts(const Context& context, const Array& parts, const Array& sum) {
    if (parts.data == sum.data) return;
    // The leading dimensions of the groups, and those of their members.
    std::vector<long> shape[2], of_parts[2], of_sum;
    for (int i = 0; i < sum.ndim() - 2; ++i) {
        const bool shared = is_shared(sum, i);
        shape[shared].push_back(sum.shape[std::size_t(i)]);
        of_parts[shared].push_back(parts.stride[std::size_t(i)]);
        if (!shared) of_sum.push_back(sum.stride[std::size_t(i)]);
    }
    std::vector<LeadStride> of_groups, of_members;
    MemberSums<Sum> q = {.groups = collapse(shape[0], {of_parts[0], of_sum}, of_groups),
                         .members = collapse(shape[1], {of_parts[1]}, of_members),
                         .part_of_group = of_groups[0],
                         .part_of_member = of_members[0],
                         .rows = sum.dim(2),
                         .width = sum.dim(1),
                         .parts = reinterpret_cast<const Sum*>(parts.data),
                         .sum = strided(sum)};
    q.sum.lead = of_groups[1];
    const long elements = q.groups.items() * q.rows * q.width;
    if (elements > 0)
        launch(add_members<Sum>, ceil_div(elements, kSumThreads), 1, kSumThreads, 0, context.stream, q);
}

#define RK_INSTANTIATE(Sum)                                     \
    template Array parts_of<Sum>(const Context&, const Array&); \
    template void add_parts<Sum>(const Context&, const Array&, const Array&);
RK_INSTANTIATE(float)
RK_INSTANTIATE(double)

}  // namespace rk::cuda
