"""The leaderboard as static pages, made from run records alone."""

from mlbench.report.site.pages import Site, write_site

__all__ = ["Site", "write_site"]
