// Memory for large tensors from one region of its own.
//
// A training step takes and frees the same hundreds of megabytes again and again, in sizes that differ from step to
// step. The C library either maps and unmaps them, and the kernel then clears every page anew, or keeps them in a heap
// shared with small long-lived objects, which nail it down until it is several times what is in use. Here large blocks
// are first-fit, coalesced on release, in address space that is reserved once and backed by huge pages as it is touched.
//
// Blocks may be freed at any time, from any thread, after the pool was left as well. Not covered: anything but Linux.
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/alloc_cpu.h>
#include <sys/mman.h>

#include <map>
#include <mutex>
#include <unordered_map>

namespace {

constexpr size_t kSmall = 32 * 1024;     // what is smaller stays with the C library
constexpr size_t kAlign = 4096;          // of a block
constexpr size_t kHuge = 2 * 1024 * 1024;
constexpr size_t kReserved = 1ull << 40; // address space, not memory

struct Region {
    std::mutex lock;
    char *base = nullptr;
    std::map<size_t, size_t> free;               // offset -> size, no two of them adjacent
    std::unordered_map<size_t, size_t> taken;    // offset -> size
    size_t in_use = 0, most = 0;

    bool open() {
        if (base) return true;
        void *space = mmap(nullptr, kReserved + kHuge, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (space == MAP_FAILED) return false;
        base = reinterpret_cast<char *>((reinterpret_cast<size_t>(space) + kHuge - 1) / kHuge * kHuge);
        madvise(base, kReserved, MADV_HUGEPAGE);
        free[0] = kReserved;
        return true;
    }

    void *take(size_t bytes) {
        std::lock_guard<std::mutex> guard(lock);
        size_t size = (bytes + kAlign - 1) / kAlign * kAlign;
        for (auto gap = free.begin(); gap != free.end(); ++gap) {
            if (gap->second < size) continue;
            size_t at = gap->first, rest = gap->second - size;
            free.erase(gap);
            if (rest) free[at + size] = rest;
            taken[at] = size;
            in_use += size;
            if (in_use > most) most = in_use;
            return base + at;
        }
        return nullptr;
    }

    bool give(void *block) {
        std::lock_guard<std::mutex> guard(lock);
        char *address = static_cast<char *>(block);
        if (!base || address < base || address >= base + kReserved) return false;
        size_t at = static_cast<size_t>(address - base);
        auto entry = taken.find(at);
        size_t size = entry->second;
        taken.erase(entry);
        in_use -= size;
        auto next = free.lower_bound(at);
        if (next != free.end() && next->first == at + size) {
            size += next->second;
            next = free.erase(next);
        }
        if (next != free.begin()) {
            auto before = std::prev(next);
            if (before->first + before->second == at) {
                before->second += size;
                return true;
            }
        }
        free[at] = size;
        return true;
    }

    void trim() { // memory of the gaps back to the system
        std::lock_guard<std::mutex> guard(lock);
        if (!base) return;
        for (auto &gap : free) {
            size_t start = (gap.first + kAlign - 1) / kAlign * kAlign;
            madvise(base + start, gap.first + gap.second - start, MADV_DONTNEED);
        }
    }
};

Region &region() { // never destroyed: tensors may outlive everything
    static Region *one = new Region;
    return *one;
}

void release(void *block) {
    if (block && !region().give(block)) c10::free_cpu(block);
}

struct Pool : c10::Allocator {
    c10::DataPtr allocate(size_t bytes) override {
        void *block = bytes >= kSmall ? region().take(bytes) : nullptr;
        if (!block) block = c10::alloc_cpu(bytes);
        return {block, block, &release, c10::Device(c10::DeviceType::CPU)};
    }
    c10::DeleterFnPtr raw_deleter() const override { return &release; }
    void copy_data(void *to, const void *from, size_t count) const override { default_copy_data(to, from, count); }
};

c10::Allocator *before = nullptr;

} // namespace

extern "C" int pool_enter() {
    static Pool *pool = new Pool;
    if (before || !region().open()) return 0;
    before = c10::GetCPUAllocator();
    c10::SetCPUAllocator(pool, 0);
    return 1;
}

extern "C" void pool_leave() {
    if (!before) return;
    c10::SetCPUAllocator(before, 0);
    before = nullptr;
    region().trim();
}

extern "C" int64_t pool_most() { return static_cast<int64_t>(region().most); }
