# Verbs; CMake does the work. The plain build lies in build/, the others in build/PRESET.
configure := cmake -S . -B build $(if $(wildcard build/CMakeCache.txt),,$(if $(shell command -v ninja),-G Ninja))

all:
	@$(configure) && cmake --build build
test: configure += -DPG_TESTS=ON
test: all
	ctest --test-dir build --output-on-failure
debug asan tsan clang:
	cmake --preset $@ && cmake --build --preset $@ && ctest --preset $@
arm: # the tests that run under qemu-user
	tools/arm.sh
fuzz: # SECONDS_EACH=N of libFuzzer a target, corpus in build/corpus
	tools/fuzz.sh $(SECONDS_EACH)
format:
	clang-format -i $$(git ls-files '*.c' '*.h')
report:
	@python3 tools/report.py
install: all
	cmake --install build
clean:
	rm -rf build
.PHONY: all test debug asan tsan clang arm fuzz format report install clean
