// Command generate writes the reference pages in docs/reference from what the
// code and the protos say, so that they cannot lie. It reads the descriptors that
// `make workspace` leaves in bin/.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
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
	for name, page := range map[string]func(*bytes.Buffer) error{
		"configuration.md":      p.configuration,
		"resources.md":          p.resources,
		"resources.schema.json": p.schema,
		"api.md":                p.api,
		"errors.md":             errorsPage,
		"metrics.md":            metricsPage,
	} {
		var b bytes.Buffer
		if err := page(&b); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		file := filepath.Join("docs", "reference", name)
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
