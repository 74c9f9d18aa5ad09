# cmake -D OUT=FILE -D HEADER=a/b.hpp -D FUNCTION=name -D FILES=a.json;b.json -P embed.cmake: writes a C++ file with
# that function, declared in that header, which returns the documents: name -> content.
set(entries "")
foreach(file IN LISTS FILES)
  get_filename_component(name ${file} NAME_WLE)
  file(READ ${file} content)
  string(APPEND entries "      {\"${name}\", R\"json(${content})json\"},\n")
endforeach()
file(WRITE ${OUT}.new "// Made at build time by cmake/embed.cmake.
#include \"${HEADER}\"

namespace plumb {

const std::map<std::string_view, std::string_view>& ${FUNCTION}() {
  static const std::map<std::string_view, std::string_view> documents{
${entries}  };
  return documents;
}

}  // namespace plumb
")
file(COPY_FILE ${OUT}.new ${OUT} ONLY_IF_DIFFERENT)
