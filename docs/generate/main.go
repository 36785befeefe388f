// Command generate writes the reference pages in docs/reference, and the description
// of the HTTP face in gen/openapi, from what the code and the protos say, so that
// they cannot lie. It reads the descriptors that
// `make workspace` leaves in bin/.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
)

func main() {
	check := flag.Bool("check", false, "fail if a page is not what would be written")
	image := flag.String("image", "bin/_proto/image.binpb", "descriptors with comments, as `file`")
	flag.Parse()
	if err := run(*image, *check); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

func run(image string, check bool) error {
	p, err := readProtos(image)
	if err != nil {
		return err
	}
	for file, page := range map[string]func(*bytes.Buffer) error{
		"docs/reference/configuration.md":      p.configuration,
		"docs/reference/resources.md":          p.resources,
		"docs/reference/resources.schema.json": p.schema,
		"docs/reference/api.md":                p.api,
		"docs/reference/errors.md":             errorsPage,
		"docs/reference/metrics.md":            metricsPage,
		"gen/openapi/openapi.json":             p.openAPI,
		"gen/openapi/openapi.go":               embedding,
	} {
		var b bytes.Buffer
		if err := page(&b); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		if !check {
			if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
				return err
			}
			continue
		}
		if have, err := os.ReadFile(file); err != nil || !bytes.Equal(have, b.Bytes()) {
			return fmt.Errorf("%s is not what the sources say: run `make generate` and commit the result", file)
		}
	}
	return nil
}
