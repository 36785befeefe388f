package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func newVersion(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version of stsctl",
		Long:  "Print the version of stsctl, the commit it was built from and the Go version.",
		Args:  cobra.NoArgs,
	}
	out := outputFlag(cmd, "text", "json", "yaml")
	cmd.RunE = func(*cobra.Command, []string) error {
		v := struct {
			Version string `json:"version"`
			Commit  string `json:"commit,omitempty"`
			Go      string `json:"go"`
		}{version(), commit(), runtime.Version()}
		if done, err := out.write(c.stdout, v); done {
			return err
		}
		_, err := fmt.Fprintf(c.stdout, "stsctl %s %s %s\n", v.Version, v.Commit, v.Go)
		return err
	}
	return cmd
}

// version is the version of the module, as the Go command recorded it.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

// commit is the revision that the binary was built from, empty if unknown.
func commit() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value
		}
	}
	return ""
}
